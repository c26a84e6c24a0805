//! Moves a body from one connection's read buffer to the other's socket.

use crate::http1::body::Body;
use crate::http1::conn::{Reader, Writer};
use crate::http1::upload::Flow;
use crate::proxy::error::Hostile;

/// Why a body's way ended early.
pub(super) enum Broken {
    Protocol(Hostile),
    Ended,
    Reset,
    Writing,
}

/// Whom a body is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// A client that is gone needs no answer: its reset ends everything at once.
    ForServer,
    /// What the server sent before it reset is still good, and may be all there is.
    ForClient {
        /// The client doesn't know chunks.
        bare: bool,
    },
}

/// Moves a body, and the staged head with its first bytes. `count` is told of every write.
pub(super) async fn pump(
    flow: &mut Flow,
    from: &mut Reader<'_>,
    to: &mut Writer<'_>,
    bound: Bound,
    count: impl Fn(&[u8]),
) -> Result<(), Broken> {
    let bare = matches!(bound, Bound::ForClient { bare: true });
    loop {
        // What an earlier try didn't get rid of is still there.
        if flow.left == 0 && !flow.end {
            let run = flow.body.advance(from.buffered(), bare).map_err(Broken::Protocol)?;
            if run.skip > 0 {
                from.consume(run.skip);
            }
            (flow.left, flow.end) = (run.len, run.end);
        }
        let moves = flow.left > 0;
        while flow.left > 0 || to.is_staged() {
            let sent = tokio::select! {
                biased;
                sent = to.send_some(&from.buffered()[..flow.left]) => sent.map_err(|_| Broken::Writing)?,
                // Nothing is read while the server takes nothing, so that reading can't tell.
                _ = from.reset(), if bound == Bound::ForServer => return Err(Broken::Reset),
            };
            count(&from.buffered()[..sent]);
            // At once: a switch of protocols or another try may end this anywhere, and goes on with what is buffered.
            if sent > 0 {
                from.consume(sent);
            }
            flow.left -= sent;
        }
        if flow.end {
            return Ok(());
        }
        if moves && !from.buffered().is_empty() {
            continue;
        }
        match (from.fill().await, &flow.body) {
            (Ok(0), Body::UntilClose) => return Ok(()),
            (Ok(0), _) => return Err(Broken::Ended),
            (Ok(_), _) => {}
            (Err(_), _) => return Err(Broken::Reset),
        }
    }
}
