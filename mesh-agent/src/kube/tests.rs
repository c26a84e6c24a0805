//! Configurations that can't be used say so; statuses are told apart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn statuses_are_told_apart() {
    fn check(code: u16, want: Failure) {
        assert_eq!(Failure::of_status(code), want, "{code}");
    }
    check(401, Failure::Unauthorized);
    check(403, Failure::Forbidden);
    check(404, Failure::NotFound);
    check(410, Failure::Expired);
    check(429, Failure::Throttled);
    check(500, Failure::Refused);
    check(504, Failure::Timeout);
}

#[test]
fn labels_are_unique() {
    let labels: std::collections::BTreeSet<_> = Failure::ALL.iter().map(|failure| failure.label()).collect();
    assert_eq!(labels.len(), Failure::ALL.len());
}

#[tokio::test]
async fn a_client_is_made_without_asking_the_server() {
    let config = Config::new("https://127.0.0.1:1/".parse().unwrap());
    let client = client(&config).unwrap();
    let error = client.apiserver_version().await.unwrap_err();
    assert_eq!(Failure::of(&error), Failure::Unreachable, "{error:?}");
}

#[tokio::test]
async fn what_a_client_is_made_of_is_named_where_it_is_broken() {
    let mut config = Config::new("https://127.0.0.1:1/".parse().unwrap());
    config.root_cert = Some(vec![b"no certificate".to_vec()]);
    let error = client(&config).map(drop).unwrap_err().to_string();
    assert!(error.contains("https://127.0.0.1:1/") && error.contains("certificates"), "{error}");
}
