//! A hedge's way to an answer over HTTP/2: the whole request at once, and the head of what comes back.
//!
//! Used by `http1::hedge`; if it wins, `run` passes the answer on. One that is dropped resets its stream.

use bytes::Bytes;
use http::{StatusCode, request};

use super::chunks::Part;
use super::{Outgoing, head_for};
use crate::http1::mark;
use crate::http1::message::RequestHead;
use crate::proxy::error::{ErrorKind, ProxyError};
use crate::proxy::{Connection, Picked};

/// Sends `request` with the `body` that was kept of it, as it came, and waits for the answer, which the stream then has. Its head
/// is `departing` where that is for this endpoint alone. What the endpoint certainly didn't take up is sent once more.
pub(in crate::http1) async fn answered(
    conn: &Connection,
    request: &RequestHead,
    departing: Option<&request::Parts>,
    body: Bytes,
    picked: &Picked,
) -> Result<(Box<Outgoing>, StatusCode), ProxyError> {
    let mut again = false;
    loop {
        let head = head_for(picked, request, departing);
        let mut stream = Box::new(Outgoing::open(picked, conn, head, request.body.is_done()).await?);
        send(request, &body, &mut stream, picked.restores_http1())?;
        match (&mut stream.response).await {
            Ok(answer) => {
                let status = answer.status();
                stream.answered = Some(answer);
                return Ok((stream, status));
            }
            Err(error) => {
                let fault = stream.lease.fault(&error, body.is_empty());
                if again || !fault.untaken {
                    return Err(fault.kind.into());
                }
                again = true;
            }
        }
    }
}

/// All of it is in memory, so it is handed over at once; it leaves as the endpoint's window allows.
fn send(
    request: &RequestHead,
    mut kept: &[u8],
    stream: &mut Outgoing,
    restored: bool,
) -> Result<(), ProxyError> {
    let (mut body, mut end) = (request.body, request.body.is_done());
    while !end {
        let part = Part::take(&mut body, kept, usize::MAX).map_err(ErrorKind::DownstreamProtocol)?;
        if part.taken == 0 && !part.end {
            // Hedges are sent of what has come completely.
            return Err(ErrorKind::Internal.into());
        }
        (kept, end) = (&kept[part.taken..], part.end);
        let last = end && part.trailers.is_none();
        // Whether a stream that takes no more has failed, its answer says.
        if last || !part.data.is_empty() {
            let _ = stream.body.send_data(part.data.freeze(), last);
        }
        if let Some(mut trailers) = part.trailers {
            if restored {
                mark::trailers(&trailers.last, &mut trailers.fields);
            }
            let _ = stream.body.send_trailers(trailers.fields);
        }
    }
    Ok(())
}
