//! When a try has to end, and by whose deadline.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::proxy::error::{ErrorKind, ProxyError};

/// When a try has to end, and the failure if it doesn't; None: whenever it does.
#[derive(Clone, Copy, Debug)]
pub struct TryDeadline(pub Option<(Instant, ErrorKind)>);

/// Of a client's deadline this much may pass before its word is corrected: what a hop on the way takes in any case.
const NEGLIGIBLE: Duration = Duration::from_millis(1);

/// What a client says of its own patience (gRPC's `grpc-timeout`).
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientDeadline {
    /// The end of it.
    pub(super) at: Instant,
    /// In its words.
    said: Duration,
}

impl ClientDeadline {
    /// Of a request whose head came at `now`. None: for longer than any clock goes.
    pub(super) fn new(said: Duration, now: Instant) -> Option<Self> {
        Some(Self { at: now.checked_add(said)?, said })
    }

    /// What is left at `now` of a request that has to end by `deadline`; None if that is what the client said.
    pub(super) fn left(self, deadline: Instant, now: Instant) -> Option<Duration> {
        let left = deadline.min(self.at).saturating_duration_since(now);
        (left + NEGLIGIBLE <= self.said).then_some(left)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_endpoint_is_told_what_is_left_unless_that_is_what_the_client_said() {
        fn check(said: Duration, limit: Duration, passed: Duration, want: Option<Duration>) {
            let now = Instant::now();
            let client = ClientDeadline::new(said, now);
            let left = client.and_then(|client| client.left(now + limit, now + passed));
            assert_eq!(left, want, "{said:?} {limit:?} {passed:?}");
        }
        check(1000 * MS, 1000 * MS, MS / 2, None);
        check(1000 * MS, 1000 * MS, MS, Some(999 * MS));
        check(1000 * MS, 300 * MS, MS / 2, Some(300 * MS - MS / 2));
        check(1000 * MS, 5000 * MS, 400 * MS, Some(600 * MS));
        check(1000 * MS, 1000 * MS, 2000 * MS, Some(Duration::ZERO));
        check(Duration::MAX, MS, MS, None);
    }
}
