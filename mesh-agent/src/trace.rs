//! Traces: a span for either side of every request and opaque connection that is recorded, exported by OTLP.
//!
//! `proxy::exchange` and `proxy::tcp` begin and end them, `proxy::spans` says what is in one. Pure but for the last three:
//! `context` are ids, `w3c`, `b3` and `grpc_bin` the headers that carry them, `propagate` finds and writes those; `sampling` decides;
//! `traced` is a request's part in it, `span` and `wire` encode; `queue` hands spans over, `batch` and `message` put them together;
//! `export` runs on a thread of its own and `send`s to the `endpoint`. Where tracing is off nothing here is called for a request.

mod b3;
mod batch;
mod context;
mod endpoint;
mod export;
mod grpc_bin;
mod message;
mod propagate;
mod queue;
mod sampling;
mod send;
mod span;
#[cfg(test)]
pub mod testing;
mod traced;
mod w3c;
mod wire;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::task::LocalSet;

pub use self::context::{SpanId, TraceId};
pub use self::endpoint::{BadEndpoint, Endpoint, Protocol};
pub use self::export::{Counters, EXPORTS, RESULTS};
pub use self::propagate::{TRACEPARENT, TRACESTATE};
use self::queue::Queue;
use self::sampling::Sampler;
pub use self::sampling::{BadRatio, Keep, Ratio};
pub use self::span::{Attributes, Events, Kind, Span};
pub use self::traced::{Event, Notes, Traced, What};
use crate::clock;
use crate::model::Workload;

/// How long the agent's end waits for the exporter.
const FLUSH: Duration = Duration::from_secs(3);

/// What flags say of tracing.
#[derive(Clone, Debug)]
pub struct Options {
    /// The collector.
    pub endpoint: Endpoint,
    /// What is spoken with it.
    pub protocol: Protocol,
    /// Authorities of its certificate; None: the system's.
    pub ca: Option<PathBuf>,
    /// For one request to it.
    pub timeout: Duration,
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
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
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
        let mut tracer = Self::deaf(options, &counters);
        let remote = send::Remote {
            endpoint: options.endpoint.clone(),
            protocol: options.protocol,
            ca: options.ca.clone(),
            timeout: options.timeout,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, cluster) = (tracer.queue.clone(), cluster.to_owned());
        tracer.thread = Some(thread::Builder::new().name("traces".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, export::run(queue, remote, counters, cluster));
        })?);
        Ok(tracer)
    }

    /// Without an exporter: what it is given stays in the queue.
    fn deaf(options: &Options, counters: &Counters) -> Self {
        for result in RESULTS {
            counters.spans.with_label_values(&[result]);
        }
        for result in EXPORTS {
            counters.exports.with_label_values(&[result]);
        }
        let queue = Arc::new(Queue::new(counters.spans.with_label_values(&["queue_full"])));
        let sampler = Sampler::new(options.ratio, options.limit, options.keep);
        Self { sampler, queue, thread: None }
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
            self.queue.push(of, out);
        });
    }

    /// Waits until every span so far is sent, for a short while: before the process ends.
    pub fn flush(&self) {
        self.queue.flush(FLUSH);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.queue.close();
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + FLUSH;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                // A collector that hangs would hang the agent's end too.
                return;
            }
            // There is no join with a deadline.
            thread::sleep(Duration::from_millis(5));
        }
        drop(thread.join());
    }
}

#[cfg(test)]
impl Tracer {
    /// One whose spans stay to be looked at.
    #[expect(clippy::unwrap_used, reason = "test support")]
    pub fn for_tests(ratio: Ratio, keep: Keep) -> Self {
        let vec =
            |name| prometheus::IntCounterVec::new(prometheus::Opts::new(name, name), &["result"]).unwrap();
        let counters = Counters { spans: vec("spans"), exports: vec("exports") };
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let (protocol, timeout) = (Protocol::Grpc, Duration::from_secs(1));
        let options = Options { endpoint, protocol, ca: None, timeout, ratio, limit: 0, keep };
        Self::deaf(&options, &counters)
    }

    /// The spans so far, with the pod of each.
    pub fn spans(&self) -> Vec<(Arc<Workload>, testing::ReadSpan)> {
        let block = self.queue.take();
        let mut from = 0;
        let mut read = |(pod, end): &(Arc<Workload>, usize)| {
            let span = testing::read(&block.bytes[from..*end]);
            from = *end;
            (pod.clone(), span)
        };
        block.spans.iter().map(&mut read).collect()
    }
}
