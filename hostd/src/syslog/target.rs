//! Where messages go, and the connection to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Time a connection may take, with its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// A receiver.
#[derive(Debug, Clone)]
pub struct Target {
    /// As an operator wrote it.
    pub name: String,
    host: String,
    port: u16,
    /// How to know it; none: the connection is open to all on the way.
    tls: Option<Arc<ClientConfig>>,
}

/// What is wrong with the description of a receiver.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not of the form.
    #[error("log.remote={0} is not of the form tcp://HOST:PORT or tls://HOST:PORT")]
    Form(String),
    /// No certificates.
    #[error("log.remote_ca holds no certificates in PEM form")]
    Certificates,
    /// TLS cannot be set up.
    #[error("Cannot use TLS")]
    Tls(#[source] tokio_rustls::rustls::Error),
}

/// A connection of either kind.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Target {
    /// Reads `tcp://HOST:PORT` or `tls://HOST:PORT`. `ca`: certificates in PEM form that the receiver's must come
    /// from; empty: those every browser knows.
    pub fn read(text: &str, ca: &str) -> Result<Self, TargetError> {
        let form = || TargetError::Form(text.to_owned());
        let (kind, address) = text.split_once("://").ok_or_else(form)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().map_err(|_| form())?;
        let tls = match kind {
            "tcp" => None,
            "tls" => Some(Arc::new(client(ca)?)),
            _ => return Err(form()),
        };
        if host.is_empty() || ServerName::try_from(host.as_str()).is_err() {
            return Err(form());
        }
        Ok(Self { name: text.to_owned(), host, port, tls })
    }

    /// Connects, within [`CONNECT`].
    pub async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else { return Ok(Box::new(stream) as Box<dyn Connection>) };
            let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("not within {} s", CONNECT.as_secs()));
        timeout(CONNECT, connect).await.map_err(late)?
    }
}

fn client(ca: &str) -> Result<ClientConfig, TargetError> {
    let mut roots = RootCertStore::empty();
    if ca.trim().is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    } else {
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let certificate = certificate.map_err(|_| TargetError::Certificates)?;
            roots.add(certificate).map_err(|_| TargetError::Certificates)?;
        }
        if roots.is_empty() {
            return Err(TargetError::Certificates);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(TargetError::Tls)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_read() {
        let target = Target::read("tcp://[fd00::1]:601", "").unwrap();
        assert_eq!((target.host.as_str(), target.port, target.tls.is_some()), ("fd00::1", 601, false));
        assert!(Target::read("tls://logs.example:6514", "").unwrap().tls.is_some());
        for bad in ["", "tcp://", "udp://a:1", "tcp://a", "tcp://:514", "tcp://a:b", "tcp://a b:1", "a:1"] {
            assert!(matches!(Target::read(bad, ""), Err(TargetError::Form(_))), "{bad}");
        }
        for bad in ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Target::read("tls://a:1", bad), Err(TargetError::Certificates)), "{bad}");
        }
    }
}
