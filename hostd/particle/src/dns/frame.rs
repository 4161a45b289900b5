//! Messages in a stream: each behind two bytes that tell its length (RFC 1035, RFC 7766).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The next message. An error ends the stream: nobody knows where another message would begin.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), limit: u16) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    if length > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Sends a message, in one piece.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
