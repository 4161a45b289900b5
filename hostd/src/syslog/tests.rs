//! Receivers of every kind, on loopback.

use std::fs::File;
use std::io::Write;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::*;

fn add(folder: &Path, text: &str) {
    let mut log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    log.write_all(text.as_bytes()).unwrap();
}

/// One message, taken apart by somebody else's parser.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> syslog_rfc5424::SyslogMessage {
    let take = async {
        let mut reader = BufReader::with_capacity(1, stream);
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).await.unwrap();
        let length: usize = String::from_utf8(length).unwrap().trim().parse().unwrap();
        let mut message = vec![0; length];
        reader.read_exact(&mut message).await.unwrap();
        syslog_rfc5424::parse_message(String::from_utf8(message).unwrap()).unwrap()
    };
    timeout(Duration::from_secs(20), take).await.unwrap()
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap().0
}

#[tokio::test]
async fn lines_are_sent_in_order_and_again_after_the_receiver_was_gone() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::read(&format!("tcp://{}", listener.local_addr().unwrap()), "").unwrap();
    add(folder.path(), "[    1.000] mote: first\n[    2.000] hostd: 2026-11-26T14:00:00Z ERROR second\n");
    let syslog = Syslog::start(target.clone(), folder.path());
    let mut stream = accept(&listener).await;
    let message = receive(&mut stream).await;
    assert_eq!((message.msg.as_str(), message.appname.as_deref()), ("first", Some("mote")));
    let message = receive(&mut stream).await;
    assert_eq!(message.msg, "second");
    assert_eq!(message.severity, syslog_rfc5424::SyslogSeverity::SEV_ERR);
    drop(stream);
    sleep(LOOK * 2).await;
    add(folder.path(), "[    3.000] mote: third\n");
    let mut stream = accept(&listener).await;
    assert_eq!(receive(&mut stream).await.msg, "third");
    sleep(LOOK).await;
    assert!(syslog.status().connected);
    drop(syslog);

    // A hostd that is started anew goes on where the last was.
    add(folder.path(), "[    4.000] mote: fourth\n");
    let _syslog = Syslog::start(target, folder.path());
    let mut stream = accept(&listener).await;
    assert_eq!(receive(&mut stream).await.msg, "fourth");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    // Reserved, so that nobody listens there yet.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let syslog = Syslog::start(Target::read(&format!("tcp://{address}"), "").unwrap(), folder.path());
    sleep(LOOK).await;
    let extra = 500;
    let lines: String = (0..queue::MOST_LINES + extra).map(|n| format!("[    1.000] mote: {n}\n")).collect();
    add(folder.path(), &lines);
    while syslog.status().waiting < queue::MOST_LINES {
        sleep(LOOK).await;
    }
    assert!(!syslog.status().connected && !syslog.status().error.is_empty());
    let listener = TcpListener::bind(address).await.unwrap();
    let mut stream = accept(&listener).await;
    assert_eq!(receive(&mut stream).await.msg, format!("{extra} lines of the log were dropped"));
    assert_eq!(receive(&mut stream).await.msg, extra.to_string());
    assert_eq!(syslog.status().dropped, u64::try_from(extra).unwrap());
}

#[tokio::test]
async fn over_tls_only_to_whom_the_certificate_says() {
    let folder = tempfile::tempdir().unwrap();
    add(folder.path(), "[    1.000] mote: secretly\n");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("tls://{}", listener.local_addr().unwrap());

    let stranger = Syslog::start(Target::read(&name, &other.cert.pem()).unwrap(), folder.path());
    assert!(acceptor.accept(accept(&listener).await).await.is_err());
    sleep(LOOK).await;
    assert!(stranger.status().error.contains("certificate"), "{:?}", stranger.status());
    assert_eq!(stranger.status().sent, 0);
    drop(stranger);

    let _syslog = Syslog::start(Target::read(&name, &made.cert.pem()).unwrap(), folder.path());
    let mut stream = acceptor.accept(accept(&listener).await).await.unwrap();
    assert_eq!(receive(&mut stream).await.msg, "secretly");
}
