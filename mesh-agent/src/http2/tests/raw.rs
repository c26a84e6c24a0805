//! A client made of bytes, for what no proper client sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `:method GET, :scheme http, :path /` from the static table, `:authority a` as a literal (RFC 7541, C).
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];
/// The same as POST.
pub(super) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 0x01, b'a'];

/// A field as a literal without indexing, with a new name.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.as_bytes());
    assert!(value.len() < 127);
    bytes.push(value.len() as u8);
    bytes.extend(value.as_bytes());
    bytes
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) struct Raw(TcpStream);

impl Raw {
    pub(super) async fn connect(proxy: &Proxy) -> Self {
        let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self(stream);
        raw.send(frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// False once the proxy has closed.
    pub(super) async fn send(&mut self, bytes: Vec<u8>) -> bool {
        self.0.write_all(&bytes).await.is_ok()
    }

    /// The next frame as kind, flags, stream and payload.
    pub(super) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// The code of the next frame of this kind (RST_STREAM or GOAWAY); None if the connection ends before.
    pub(super) async fn code(&mut self, wanted: u8) -> Option<u32> {
        loop {
            let (kind, _, _, payload) = self.next().await?;
            if kind == wanted {
                let at = if kind == GOAWAY { 4 } else { 0 };
                return Some(u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
            }
        }
    }
}
