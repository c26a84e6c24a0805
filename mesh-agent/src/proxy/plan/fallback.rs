//! A request that goes to another service instead, once, where a TrafficPolicy says so (`fallback.service`).
//!
//! Asked by `decide` before a request is sent, by `crate::http1` and `crate::http2` once its service has failed and it can
//! be sent again. The other service's own policies don't apply, so services that fall back to each other make no loop.

use http::StatusCode;
use tokio::time::Instant;

use super::Plan;
use crate::balance::outlier;
use crate::policy::traffic::FallbackTo;
use crate::proxy::backend::Backends;
use crate::proxy::context::Connection;
use crate::proxy::error::ErrorKind;
use crate::proxy::exchange::Exchange;

/// Where a request went instead, and until when.
pub(super) struct Fallen {
    pub(super) backends: Backends,
    pub(super) limit: Option<Instant>,
}

impl Plan {
    /// True once the request goes to the fallback's service.
    pub fn has_fallen(&self) -> bool {
        self.policed.as_ref().is_some_and(|policed| policed.fallen.get().is_some())
    }

    /// True if a response of this status is kept from the client, who gets the fallback's answer. `again`: the request can
    /// be sent once more. Over gRPC it goes by what Envoy maps `grpc` to.
    pub fn replaces(&self, conn: &Connection, status: StatusCode, grpc: Option<u16>, again: bool) -> bool {
        let Some(fallback) = self.fallback().filter(|fallback| fallback.error_5xx) else { return false };
        if grpc.map_or(status.as_u16(), outlier::status_of_grpc) < 500 {
            return false;
        }
        match &fallback.to {
            FallbackTo::Answer(_) => true,
            FallbackTo::Service(..) => {
                again && !self.has_fallen() && conn.fallback_service(fallback).is_some()
            }
        }
    }

    /// Sends the request to the fallback's service from here on, if that is for `why`. False: it isn't, it went there
    /// already, there is no such service, or nobody waits any longer.
    ///
    /// After a timeout it has as much time as the request had, otherwise what is left of that; never more than the
    /// client's own deadline leaves.
    pub fn fall_back(&self, conn: &Connection, why: ErrorKind) -> bool {
        let (Some(policed), Some(fallback)) = (&self.policed, self.fallback()) else { return false };
        if !fallback.is_for(why) || self.has_fallen() {
            return false;
        }
        let now = Instant::now();
        let limit = if why.is_timeout() { policed.time.map(|time| now + time) } else { self.limit };
        if limit.into_iter().chain(self.client.map(|client| client.at)).any(|end| end <= now) {
            return false;
        }
        let Some(backends) = conn.fallback_service(fallback) else { return false };
        conn.count_policy("fallback_service");
        policed.fallen.set(Fallen { backends, limit }).is_ok()
    }

    /// The same for a request that was sent and failed: its service's account ends there.
    pub fn falls_back_after(&self, account: &mut Exchange<'_>, why: ErrorKind) -> bool {
        let falls = self.fall_back(account.connection(), why);
        if falls {
            account.fell_back(why);
        }
        falls
    }
}

#[cfg(test)]
mod tests;
