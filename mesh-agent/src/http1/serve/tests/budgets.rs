//! Requests that are sent again as a rule says, and the budget that ends it.

use super::*;
use crate::model::{RetryAllowance, ServicePort};
use crate::route::{RetryBudget, RetryOn, RetryPolicy};
use std::sync::Arc;

async fn lab_with_budget(budget: Option<RetryBudget>) -> (Lab, Arc<ServicePort>) {
    let lab = lab().await;
    let mut port = testing::service_port("any", &[lab.endpoint.local_addr().unwrap()]);
    Arc::get_mut(&mut port).unwrap().retries = budget.map(|budget| Arc::new(RetryAllowance::new(budget)));
    let mut rule = testing::rule(&[0]);
    let on = RetryOn { statuses: vec![StatusCode::SERVICE_UNAVAILABLE], ..RetryOn::default() };
    let (least_wait, backoff, max_backoff) =
        (Duration::ZERO, Duration::from_millis(1), Duration::from_millis(1));
    rule.retry = Some(RetryPolicy { attempts: 3, on, least_wait, backoff, max_backoff, per_try: None });
    testing::route(&lab.conn, rule, std::slice::from_ref(&port));
    (lab, port)
}

/// How often an endpoint that always fails is asked for one request.
async fn asked(lab: &mut Lab) -> usize {
    lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    let mut count = 0;
    loop {
        tokio::select! {
            biased;
            accepted = lab.endpoint.accept() => {
                let mut server = accepted.unwrap().0;
                assert!(head(&mut server).await.starts_with("POST / "));
                expect(&mut server, "hi").await;
                server.write_all(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                count += 1;
            }
            answer = head(&mut lab.client) => {
                assert!(answer.starts_with("HTTP/1.1 503 No\r\n"), "{answer}");
                return count;
            }
        }
    }
}

/// Requests that were answered with 503 and ended with `flag`.
fn ended_by(lab: &Lab, flag: &str) -> usize {
    let text = lab.conn.pod.worker.telemetry.metrics.text();
    let is_it = |line: &&str| {
        line.starts_with("istio_requests_total{")
            && line.contains("response_code=\"503\"")
            && line.contains(&format!("response_flags=\"{flag}\""))
    };
    text.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn retries_stop_when_the_budget_of_the_service_is_used_up() {
    run(async {
        let hour = Duration::from_secs(3600);
        let budget = Some(RetryBudget { percent: 0, interval: hour, min_count: 4, min_interval: hour });
        let (mut lab, port) = lab_with_budget(budget).await;
        let exhausted =
            |lab: &Lab| lab.conn.pod.worker.telemetry.metrics.agent().retry_budget_exhausted.get();
        assert_eq!((asked(&mut lab).await, exhausted(&lab)), (4, 0));
        assert_eq!((asked(&mut lab).await, exhausted(&lab)), (2, 1));
        assert_eq!((asked(&mut lab).await, exhausted(&lab)), (1, 2));
        // The account of the last request is settled when the next one begins.
        lab.send("\0").await;
        head(&mut lab.client).await;
        assert_eq!(["URX", "UO", "-"].map(|flag| ended_by(&lab, flag)), [1, 2, 0]);
        // Another client of the service has no more of it.
        let (mut other, _) = lab_with_budget(budget).await;
        let mut rule = testing::rule(&[0]);
        rule.retry = Some(RetryPolicy {
            attempts: 3,
            on: RetryOn { server_error: true, ..RetryOn::default() },
            least_wait: Duration::ZERO,
            backoff: Duration::ZERO,
            max_backoff: Duration::ZERO,
            per_try: None,
        });
        let mut shared = testing::service_port("any", &[other.endpoint.local_addr().unwrap()]);
        Arc::get_mut(&mut shared).unwrap().retries = port.retries.clone();
        testing::route(&other.conn, rule, &[shared]);
        assert_eq!((asked(&mut other).await, exhausted(&other)), (1, 1));
    });
}

#[test]
fn a_share_of_the_requests_may_be_sent_again() {
    run(async {
        let hour = Duration::from_secs(3600);
        let budget = Some(RetryBudget { percent: 50, interval: hour, min_count: 0, min_interval: hour });
        let (mut lab, _) = lab_with_budget(budget).await;
        let mut tries = Vec::new();
        for _ in 0..6 {
            tries.push(asked(&mut lab).await);
        }
        assert_eq!(tries, [1, 2, 1, 2, 1, 2]);
    });
}

#[test]
fn a_rule_is_bounded_by_its_attempts_alone_where_no_policy_gives_a_budget() {
    run(async {
        let (mut lab, _) = lab_with_budget(None).await;
        for _ in 0..50 {
            assert_eq!(asked(&mut lab).await, 4);
        }
        assert_eq!(lab.conn.pod.worker.telemetry.metrics.agent().retry_budget_exhausted.get(), 0);
    });
}
