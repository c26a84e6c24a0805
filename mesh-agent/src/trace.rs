//! Traces: a span for either side of every request and opaque connection that is recorded, exported by OTLP. The access log's records go
//! the same way.
//!
//! `proxy::exchange` and `proxy::tcp` begin and end them, `proxy::spans` says what is in one. Pure but for the last ones:
//! `context` are ids, `w3c`, `b3` and `grpc_bin` the headers that carry them, `propagate` finds and writes those; `sampling` decides;
//! `traced` is a request's part in it; `span`, `record` and `wire` encode; of each `signal` a `pipeline` is the way out: `queue` hands over,
//! `batch` and `message` put together, `export` runs on a thread of its own and `send`s to the `endpoint`. Where tracing is off nothing
//! here is called for a request.

mod b3;
mod batch;
mod context;
mod endpoint;
mod export;
mod grpc_bin;
mod message;
mod pipeline;
mod propagate;
mod queue;
mod record;
mod sampling;
mod send;
mod signal;
mod span;
#[cfg(test)]
pub mod testing;
mod traced;
mod w3c;
mod wire;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

pub use self::context::{SpanContext, SpanId, TraceId};
pub use self::endpoint::{BadEndpoint, Endpoint, Protocol};
pub use self::export::{Counters, EXPORTS, RESULTS};
pub use self::pipeline::Pipeline;
pub use self::propagate::{TRACEPARENT, TRACESTATE};
pub use self::record::{Record, encode as encode_record};
use self::sampling::Sampler;
pub use self::sampling::{BadRatio, Keep, Ratio};
pub use self::send::Remote;
pub use self::signal::Signal;
pub use self::span::{Attributes, Events, Kind, Span};
pub use self::traced::{Event, Notes, Traced, What};
use crate::clock;
use crate::model::Workload;

/// What flags say of tracing.
#[derive(Clone, Debug)]
pub struct Options {
    /// The collector.
    pub remote: Remote,
    /// How many of the traces that begin here are recorded, where their service doesn't say.
    pub ratio: Ratio,
    /// At most so many a second; 0 for as many as like.
    pub limit: u32,
    /// What is kept though it isn't sampled.
    pub keep: Keep,
}

/// Decides about traces and takes their spans, for all workers.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    pipeline: Pipeline,
}

thread_local! {
    /// Grows to the longest span and stays.
    static SPAN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Tracer {
    /// Starts the exporter. `cluster` is what the pods' cluster is called.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(options: &Options, cluster: &str, counters: Counters) -> io::Result<Self> {
        let pipeline = Pipeline::start(Signal::Traces, &options.remote, cluster, counters)?;
        Ok(Self::with(options, pipeline))
    }

    fn with(options: &Options, pipeline: Pipeline) -> Self {
        Self { sampler: Sampler::new(options.ratio, options.limit, options.keep), pipeline }
    }

    /// Takes a request's context up, or begins one, and writes into its head what goes on. `service` is the ratio of the service
    /// that it is for.
    pub fn begin(&self, headers: &mut HeaderMap, service: Option<Ratio>) -> Traced {
        Traced::begin(&self.sampler, headers, service, clock::now_ns())
    }

    /// True if the request's spans are exported, now that it is over. `failed` and `took` are how it ended.
    pub fn takes(&self, traced: &Traced, failed: bool, took: Duration) -> bool {
        traced.is_sampled()
            || traced.is_candidate() && self.sampler.keeps_at_end(failed, took, clock::now_ns())
    }

    /// Exports a span of a pod's.
    pub fn add(
        &self,
        of: &Arc<Workload>,
        span: &Span<'_>,
        attributes: impl FnOnce(&mut Attributes<'_>),
        events: impl FnOnce(&mut Events<'_>),
    ) {
        SPAN.with_borrow_mut(|out| {
            out.clear();
            span::encode(out, span, attributes, events);
            self.pipeline.push(of, out);
        });
    }

    /// Waits until every span so far is sent, for a short while: before the process ends.
    pub fn flush(&self) {
        self.pipeline.flush();
    }
}

#[cfg(test)]
impl Tracer {
    /// One whose spans stay to be looked at.
    #[expect(clippy::unwrap_used, reason = "test support")]
    pub fn for_tests(ratio: Ratio, keep: Keep) -> Self {
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let remote = Remote { endpoint, protocol: Protocol::Grpc, ca: None, timeout: Duration::from_secs(1) };
        let options = Options { remote, ratio, limit: 0, keep };
        Self::with(&options, Pipeline::for_tests().0)
    }

    /// The spans so far, with the pod of each.
    pub fn spans(&self) -> Vec<(Arc<Workload>, testing::ReadSpan)> {
        self.pipeline.taken().into_iter().map(|(pod, span)| (pod, testing::read(&span))).collect()
    }
}
