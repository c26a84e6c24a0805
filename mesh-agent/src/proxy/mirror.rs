//! Copies of requests for a rule's mirrors (RequestMirror): sent beside the request, never in its way.
//!
//! `plan` draws which mirrors get a request, `crate::http1` and `crate::http2` hand it over here once it has been sent
//! completely. Each copy is a task of its own with a deadline; so many may be under way on a worker. Nothing that
//! happens to a copy is seen by the client, and no request is ever held for one.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::request;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::backend::Picked;
use super::context::{Connection, Pod, Worker};
use super::plan::Plan;
use crate::addr::ClientAddr;
use crate::model::ServicePort;
use crate::{http1, http2};

/// A complete request.
#[derive(Clone, Debug)]
pub enum Copied {
    /// Over HTTP/1, since it came so.
    Http1(http1::Mirrored),
    /// Over HTTP/2.
    Http2(Box<http2::Mirrored>),
}

impl Copied {
    /// With another head. None if it can't be read any more, which it was.
    fn with_head(&self, head: &request::Parts) -> Option<Self> {
        match self {
            Self::Http1(request) => request.with_head(head).map(Self::Http1),
            Self::Http2(request) => Some(Self::Http2(Box::new(request.with_head(head)))),
        }
    }
}

impl Connection {
    /// Sends copies of a request to the mirrors that `plan` drew for it, once; it may be called for every try. `copy` is
    /// None where the body wasn't kept.
    pub fn mirror(&self, plan: &Plan, head: &request::Parts, copy: impl FnOnce() -> Option<Copied>) {
        let mirrors = plan.take_mirrors();
        if mirrors.is_empty() {
            return;
        }
        let copy = copy();
        for port in mirrors {
            match &copy {
                Some(copy) => self.mirror_to(port.as_ref(), head, copy.clone()),
                None => count(&self.pod.worker, "too_large"),
            }
        }
    }

    fn mirror_to(&self, port: Option<&Arc<ServicePort>>, head: &request::Parts, copy: Copied) {
        let worker = &self.pod.worker;
        let Some(picked) = port.and_then(|port| self.pick_of(port, None, &[], None).ok()) else {
            return count(worker, "no_endpoint");
        };
        let copy = match self.admit_at_once(&picked, head) {
            Err(_) => return count(worker, "denied"),
            Ok(None) => copy,
            Ok(Some(head)) => match copy.with_head(&head) {
                Some(copy) => copy,
                None => return count(worker, "failed"),
            },
        };
        let Some(place) = Place::take(worker) else { return count(worker, "overflow") };
        spawn_local(send(copy, picked, self.pod.clone(), self.client, place));
    }
}

async fn send(copy: Copied, picked: Picked, pod: Rc<Pod>, client: ClientAddr, _place: Place) {
    let answered = Cell::new(false);
    let delivering = async {
        match &copy {
            Copied::Http1(request) => request.deliver(&picked, &pod, client, &answered).await,
            Copied::Http2(request) => request.deliver(&picked, &pod, client, &answered).await,
        }
    };
    // How the answer ends is nobody's business.
    let _ = timeout(pod.worker.limits.mirror_timeout, delivering).await;
    if answered.get() {
        count(&pod.worker, "sent");
    } else {
        picked.distrust();
        count(&pod.worker, "failed");
    }
}

fn count(worker: &Worker, outcome: &str) {
    worker.telemetry.metrics.agent().mirrored_requests.with_label_values(&[outcome]).inc();
}

/// One of the copies that may be under way on a worker, given back on drop.
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        if worker.mirrors.get() >= worker.limits.max_mirrors {
            return None;
        }
        worker.mirrors.set(worker.mirrors.get() + 1);
        Some(Self(worker.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}
