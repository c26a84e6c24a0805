//! Requests over HTTP/2 that are sent to another endpoint as well for being slow.

use tokio::sync::Notify;

use super::tries::{BODY, Seen, noting, status, whole};
use super::*;

const HEDGE: &str = "hedge: {after: 50ms, max: 1}";
const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// Clients of a service of two endpoints that share one way of answering.
struct Hedged {
    over: Over,
    _endpoints: [Endpoint; 2],
}

impl Hedged {
    /// `answer` is told the number of the request among those of both.
    async fn start(
        groups: &str,
        seen: &Seen,
        answer: impl Fn(usize, SendResponse<Bytes>) + Clone + 'static,
    ) -> Self {
        let endpoints = [noting(seen, answer.clone()).await, noting(seen, answer).await];
        let over = Over::to(endpoints[0].addr).await;
        testing::police(&over.conn, upgraded("two", &[endpoints[0].addr, endpoints[1].addr]), groups);
        Self { over, _endpoints: endpoints }
    }

    fn count(&self, outcome: &str) -> u64 {
        self.over.conn.pod.worker.telemetry.metrics.agent().hedges.with_label_values(&[outcome]).get()
    }
}

/// Never answers, and notes with what the stream was reset.
fn hang(mut respond: SendResponse<Bytes>, end: &Rc<Cell<Option<Reason>>>) {
    let end = end.clone();
    spawn_local(async move { end.set(std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok()) });
}

#[test]
fn a_hedge_that_answers_first_has_the_whole_request_and_the_slow_try_is_reset() {
    run(async {
        let (seen, end) = (Seen::default(), Rc::new(Cell::new(None)));
        let ended = end.clone();
        let mut hedged = Hedged::start(HEDGE, &seen, move |number, respond| match number {
            0 => hang(respond, &ended),
            _ => status(respond, 204),
        })
        .await;
        hedged
            .over
            .send(&format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}"))
            .await;
        expect(&mut hedged.over.client, NO_CONTENT).await;
        eventually("reset", || end.get() == Some(Reason::CANCEL)).await;
        assert_eq!(*seen.borrow(), [whole("/a"), whole("/a")]);
        assert_eq!((hedged.count("sent"), hedged.count("won")), (1, 1));
        // The client's connection goes on.
        hedged.over.send(GET).await;
        expect(&mut hedged.over.client, NO_CONTENT).await;
    });
}

#[test]
fn a_body_larger_than_the_window_reaches_the_hedge_whole() {
    run(async {
        let (seen, end) = (Seen::default(), Rc::new(Cell::new(None)));
        let groups = format!("{HEDGE}, retry: {{attempts: 1, on: [reset], bufferLimit: 524288}}");
        let mut hedged = Hedged::start(&groups, &seen, move |number, respond| match number {
            0 => hang(respond, &end),
            _ => status(respond, 204),
        })
        .await;
        let size = 300 * 1024;
        hedged
            .over
            .send(&format!(
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{}",
                "x".repeat(size)
            ))
            .await;
        expect(&mut hedged.over.client, NO_CONTENT).await;
        let sizes: Vec<_> = seen.borrow().iter().map(|(_, body, _)| body.len()).collect();
        assert_eq!(sizes, [size, size]);
    });
}

#[test]
fn a_try_that_answers_before_its_hedge_is_passed_on_and_the_hedge_reset() {
    run(async {
        let (seen, end, go) = (Seen::default(), Rc::new(Cell::new(None)), Rc::new(Notify::new()));
        let (ended, awaited) = (end.clone(), go.clone());
        let mut hedged = Hedged::start(HEDGE, &seen, move |number, respond| match number {
            0 => {
                let go = awaited.clone();
                spawn_local(async move {
                    go.notified().await;
                    status(respond, 204);
                });
            }
            _ => hang(respond, &ended),
        })
        .await;
        hedged.over.send(GET).await;
        eventually("hedged", || seen.borrow().len() == 2).await;
        go.notify_one();
        expect(&mut hedged.over.client, NO_CONTENT).await;
        eventually("reset", || end.get() == Some(Reason::CANCEL)).await;
        assert_eq!((hedged.count("sent"), hedged.count("won")), (1, 0));
    });
}

#[test]
fn a_client_that_resets_cancels_all_of_its_tries() {
    run(async {
        let (seen, ends) = (Seen::default(), [Rc::new(Cell::new(None)), Rc::new(Cell::new(None))]);
        let ended = ends.clone();
        let mut hedged =
            Hedged::start(HEDGE, &seen, move |number, respond| hang(respond, &ended[number])).await;
        hedged.over.send(GET).await;
        eventually("hedged", || seen.borrow().len() == 2).await;
        SockRef::from(&hedged.over.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(hedged.over.client);
        eventually("reset", || ends.iter().all(|end| end.get() == Some(Reason::CANCEL))).await;
    });
}

#[test]
fn an_answer_that_would_be_retried_wins_only_if_nobody_else_answers() {
    run(async {
        let (seen, go) = (Seen::default(), Rc::new(Notify::new()));
        let awaited = go.clone();
        let groups = format!("{HEDGE}, retry: {{attempts: 1, on: [5xx]}}");
        let mut hedged = Hedged::start(&groups, &seen, move |number, respond| match number {
            0 => {
                let go = awaited.clone();
                spawn_local(async move {
                    go.notified().await;
                    status(respond, 204);
                });
            }
            _ => status(respond, 503),
        })
        .await;
        hedged.over.send(GET).await;
        eventually("hedged", || seen.borrow().len() == 2).await;
        go.notify_one();
        expect(&mut hedged.over.client, NO_CONTENT).await;
        assert_eq!((seen.borrow().len(), hedged.count("won")), (2, 0));
    });
}

#[test]
fn a_try_that_fails_leaves_the_answer_to_its_hedge() {
    run(async {
        let (seen, fail, go) = (Seen::default(), Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (failing, going) = (fail.clone(), go.clone());
        let mut hedged = Hedged::start(HEDGE, &seen, move |number, mut respond| {
            let (fail, go) = (failing.clone(), going.clone());
            spawn_local(async move {
                if number == 0 {
                    fail.notified().await;
                    respond.send_reset(Reason::INTERNAL_ERROR);
                } else {
                    go.notified().await;
                    status(respond, 204);
                }
            });
        })
        .await;
        hedged.over.send(GET).await;
        eventually("hedged", || seen.borrow().len() == 2).await;
        fail.notify_one();
        // Whether the agent has seen that by the time of the answer is as it happens; it comes on another connection.
        go.notify_one();
        expect(&mut hedged.over.client, NO_CONTENT).await;
    });
}
