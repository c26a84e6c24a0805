//! When a try has to end, and by whose deadline.

use tokio::time::{Instant, timeout_at};

use crate::proxy::error::{ErrorKind, ProxyError};

/// When a try has to end, and the failure if it doesn't; None: whenever it does.
#[derive(Clone, Copy, Debug)]
pub struct TryDeadline(pub Option<(Instant, ErrorKind)>);

impl TryDeadline {
    /// When.
    pub fn at(self) -> Option<Instant> {
        self.0.map(|(at, _)| at)
    }

    /// The failure, once it has passed.
    pub fn passed(self) -> Option<ErrorKind> {
        self.0.filter(|(at, _)| Instant::now() >= *at).map(|(_, kind)| kind)
    }

    /// What `work` gives, unless it takes longer.
    pub async fn bound<T>(self, work: impl Future<Output = Result<T, ProxyError>>) -> Result<T, ProxyError> {
        match self.0 {
            Some((at, kind)) => timeout_at(at, work).await.unwrap_or_else(|_| Err(kind.into())),
            None => work.await,
        }
    }
}
