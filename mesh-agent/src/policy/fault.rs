//! Fault injection: which requests are delayed or answered with an error on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::chance::Chance;

/// What is done to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultSettings {
    /// So long, for this share.
    pub delay: Option<(Duration, Chance)>,
    /// Such an answer, to this share; drawn on its own, so that a request may be delayed and then aborted.
    pub abort: Option<(Abort, Chance)>,
    /// Only requests of which all of these hold.
    pub headers: Vec<HeaderTest>,
    /// At most so many requests suffer a fault at a time.
    pub max_active: Option<u32>,
}

/// The answer of an aborted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Http(http::StatusCode),
    /// A gRPC status, in a trailers-only answer; 200 in HTTP.
    Grpc(u16),
}

/// A test of a request header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderTest {
    /// Name.
    pub name: HeaderName,
    /// What one of its lines must be.
    pub value: ValueTest,
}

/// A test of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueTest {
    /// Any.
    Present,
    /// This.
    Exact(HeaderValue),
    /// Begins with this.
    Prefix(String),
}

/// A fault injector of a service or route.
#[derive(Debug)]
pub struct Fault {
    settings: FaultSettings,
    active: AtomicU32,
}

/// The fault of one request; counts as active until it is dropped.
#[derive(Debug)]
pub struct Injected {
    /// Wait so long first.
    pub delay: Option<Duration>,
    /// Then answer so; None: go on.
    pub abort: Option<Abort>,
    fault: Arc<Fault>,
}

impl HeaderTest {
    /// True if `headers` pass.
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        headers.get_all(&self.name).iter().any(|value| match &self.value {
            ValueTest::Present => true,
            ValueTest::Exact(wanted) => value == wanted,
            ValueTest::Prefix(prefix) => value.as_bytes().starts_with(prefix.as_bytes()),
        })
    }
}

impl Fault {
    /// As the settings say.
    pub fn new(settings: FaultSettings) -> Self {
        Self { settings, active: AtomicU32::new(0) }
    }

    /// What is done, to whom.
    pub fn settings(&self) -> &FaultSettings {
        &self.settings
    }

    /// What a request with these headers suffers; None: nothing.
    pub fn decide(self: &Arc<Self>, headers: &HeaderMap, random: u64) -> Option<Injected> {
        let settings = &self.settings;
        let delay = settings.delay.filter(|(_, chance)| chance.hits(random as u32)).map(|(delay, _)| delay);
        let abort =
            settings.abort.filter(|(_, chance)| chance.hits((random >> 32) as u32)).map(|(abort, _)| abort);
        if (delay.is_none() && abort.is_none()) || !settings.headers.iter().all(|test| test.holds(headers)) {
            return None;
        }
        let most = settings.max_active.unwrap_or(u32::MAX);
        self.active.fetch_update(Relaxed, Relaxed, |active| (active < most).then(|| active + 1)).ok()?;
        Some(Injected { delay, abort, fault: self.clone() })
    }

    /// Requests that suffer a fault now.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        self.fault.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UNAVAILABLE: Abort = Abort::Http(http::StatusCode::SERVICE_UNAVAILABLE);

    fn settings(delay: f64, abort: f64) -> FaultSettings {
        FaultSettings {
            delay: Some((Duration::from_secs(1), Chance::percent(delay))),
            abort: Some((UNAVAILABLE, Chance::percent(abort))),
            ..FaultSettings::default()
        }
    }

    #[test]
    fn delay_and_abort_are_drawn_each_for_itself() {
        fn check(delay: f64, abort: f64, random: u64, want: Option<(bool, bool)>) {
            let got = Arc::new(Fault::new(settings(delay, abort))).decide(&HeaderMap::new(), random);
            let got = got.as_ref().map(|fault| (fault.delay.is_some(), fault.abort.is_some()));
            assert_eq!(got, want, "{delay} {abort} {random:x}");
        }
        check(50.0, 50.0, 0, Some((true, true)));
        check(50.0, 50.0, 0xffff_ffff, Some((false, true)));
        check(50.0, 50.0, 0xffff_ffff << 32, Some((true, false)));
        check(50.0, 50.0, u64::MAX, None);
        check(100.0, 0.0, u64::MAX, Some((true, false)));
        check(0.0, 100.0, 0, Some((false, true)));
        check(0.0, 0.0, 0, None);
    }

    #[test]
    fn only_requests_whose_headers_match_suffer() {
        fn check(value: ValueTest, headers: &[(&str, &str)], want: bool) {
            let test = HeaderTest { name: HeaderName::from_static("x-test"), value };
            let fault = Arc::new(Fault::new(FaultSettings { headers: vec![test], ..settings(100.0, 0.0) }));
            let map = headers
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
            assert_eq!(fault.decide(&map.collect(), 0).is_some(), want, "{headers:?}");
        }
        let exact = || ValueTest::Exact(HeaderValue::from_static("chaos"));
        check(exact(), &[("x-test", "chaos")], true);
        check(exact(), &[("x-test", "no"), ("x-test", "chaos")], true);
        check(exact(), &[("x-test", "chaos2")], false);
        check(exact(), &[("x-other", "chaos")], false);
        check(ValueTest::Prefix("cha".into()), &[("x-test", "chaos")], true);
        check(ValueTest::Prefix("cha".into()), &[("x-test", "ha")], false);
        check(ValueTest::Present, &[("x-test", "")], true);
        check(ValueTest::Present, &[], false);
    }

    #[test]
    fn no_more_than_max_active_suffer_at_a_time() {
        let fault = Arc::new(Fault::new(FaultSettings { max_active: Some(2), ..settings(100.0, 0.0) }));
        let decide = || fault.decide(&HeaderMap::new(), 0);
        let (first, _second) = (decide().unwrap(), decide().unwrap());
        assert!(decide().is_none());
        drop(first);
        assert!(decide().is_some());
        assert_eq!(fault.active(), 1);
    }
}
