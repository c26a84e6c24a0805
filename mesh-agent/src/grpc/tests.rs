//! Calls over a pipe.
#![allow(clippy::unwrap_used)]

use http::HeaderMap;
use tokio::io::duplex;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: &str) -> Text {
    Text { text: text.to_owned() }
}

async fn ask(question: &Text, path: &'static str) -> Result<Text, Status> {
    let (near, far) = duplex(64 * 1024);
    let server = serve(far, async |asked: Asked| match asked.path.as_str() {
        "/test/Echo" => {
            let Text { text } = asked.message()?;
            let word = asked.headers.get("word").unwrap().to_str().unwrap();
            Ok(Text { text: format!("{text} {word}") })
        }
        "/test/Broken" => Ok(text(&"x".repeat(8 * 1024 * 1024))),
        _ => Err(Status::new(Code::PERMISSION_DENIED, "not you, 100 %: é\n")),
    });
    let mut headers = HeaderMap::new();
    headers.insert("word", "there".parse().unwrap());
    let call = Call { scheme: "http", authority: "test", path, headers };
    tokio::select! {
        answer = unary(near, call, question) => answer,
        _ = server => Err(Status::new(Code::UNKNOWN, "the server ended")),
    }
}

#[tokio::test]
async fn a_question_is_answered() {
    assert_eq!(ask(&text("hello"), "/test/Echo").await.unwrap(), text("hello there"));
}

#[tokio::test]
async fn a_refusal_comes_with_its_words() {
    let refusal = ask(&text("hello"), "/test/Other").await.unwrap_err();
    assert_eq!(refusal, Status::new(Code::PERMISSION_DENIED, "not you, 100 %: é\n"));
    assert_eq!(refusal.to_string(), "PERMISSION_DENIED: not you, 100 %: é\n");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_either_side() {
    let refusal = ask(&text(&"x".repeat(100_000)), "/test/Echo").await.unwrap_err();
    assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED);
    let refusal = ask(&text("hello"), "/test/Broken").await.unwrap_err();
    assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED);
}

#[tokio::test]
async fn a_server_that_hangs_up_is_unavailable() {
    let (near, far) = duplex(1024);
    drop(far);
    let call = Call { scheme: "http", authority: "test", path: "/test/Echo", headers: HeaderMap::new() };
    let refusal = unary::<Text>(near, call, &text("hello")).await.unwrap_err();
    assert_eq!(refusal.code, Code::UNAVAILABLE);
}
