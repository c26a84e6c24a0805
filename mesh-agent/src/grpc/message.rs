//! Messages out of an HTTP/2 body and into one: a byte that says whether it is compressed, four of length, the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use data_encoding::{BASE64, BASE64_NOPAD};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue};
use prost::Message;

use super::{Code, Status, unescape};

const PREFIX: usize = 5;

/// Messages as they come.
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
    most: usize,
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let announced =
        u32::try_from(length).map_err(|_| Status::new(Code::INVALID_ARGUMENT, "the message is too large"))?;
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(announced);
    message.encode(&mut out).map_err(|error| Status::new(Code::INTERNAL, error.to_string()))?;
    Ok(out.freeze())
}

impl Messages {
    /// None larger than `most`.
    pub(super) fn new(body: RecvStream, most: usize) -> Self {
        Self { body, buffer: BytesMut::new(), most }
    }

    /// The next one. None: the body ended between two, and its trailers say that all went well.
    ///
    /// # Errors
    /// It ended otherwise, a message is too large, or none of this kind.
    pub async fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        let Some(bytes) = self.bytes().await? else {
            let trailers = self.body.trailers().await.map_err(|error| Status::broken(&error))?;
            return outcome(trailers.as_ref()).map(|()| None);
        };
        T::decode(bytes).map(Some).map_err(|error| Status::new(Code::INTERNAL, error.to_string()))
    }

    /// The bytes of the next one. None: the body ended between two.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.split()? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::INTERNAL, "the body ended within a message")),
                Some(Err(error)) => return Err(Status::broken(&error)),
                Some(Ok(data)) => {
                    // What a message may be bounds what is kept of it.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
    }

    fn split(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(prefix) = self.buffer.get(..PREFIX) else { return Ok(None) };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 {
            return Err(Status::new(Code::UNIMPLEMENTED, "compressed messages aren't understood"));
        }
        if length > self.most {
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, format!("a message of {length} bytes")));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// What trailers, or a head that is all there is, say.
pub(super) fn outcome(trailers: Option<&HeaderMap>) -> Result<(), Status> {
    let field = |name: &str| trailers.and_then(|trailers| trailers.get(name));
    let code = field("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok().map(Code));
    let message = field("grpc-message").map_or_else(String::new, |value| unescape(value.as_bytes()));
    match code {
        Some(Code::OK) => Ok(()),
        Some(code) => {
            Err(Status { details: details(field("grpc-status-details-bin")), ..Status::new(code, message) })
        }
        None => Err(Status::new(Code::UNKNOWN, "the answer ended without a status")),
    }
}

/// Metadata whose name ends in `-bin` is base64, with or without padding.
fn details(value: Option<&HeaderValue>) -> Bytes {
    let Some(value) = value.map(HeaderValue::as_bytes) else { return Bytes::new() };
    let encoding = if value.ends_with(b"=") { &BASE64 } else { &BASE64_NOPAD };
    encoding.decode(value).unwrap_or_default().into()
}
