//! One request to the API server, one answer: a page of a list, or a watch as it is written line by line.
//!
//! Everything has a deadline; what fails is told apart by `Failure` only. Knows nothing of resources.

use std::pin::Pin;
use std::time::Duration;

use ::kube::Client;
use ::kube::client::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::time::timeout;

use crate::kube::{DEADLINE, Failure};

/// No line of a watch is longer; etcd takes objects of 1.5 MiB.
const LONGEST_LINE: usize = 16 << 20;

/// What an API server says where it has no answer.
#[derive(Debug, Deserialize)]
pub struct Status {
    #[serde(default)]
    code: u16,
}

impl Status {
    /// What it comes to.
    pub fn failure(&self) -> Failure {
        Failure::of_status(self.code)
    }
}

/// The body of the answer to `request`, complete.
pub async fn whole(client: &Client, request: Request<Vec<u8>>) -> Result<bytes::Bytes, Failure> {
    let body = begin(client, request).await?.into_body();
    let read = timeout(DEADLINE, body.collect()).await.map_err(|_| Failure::Timeout)?;
    Ok(read.map_err(|_| Failure::Unreachable)?.to_bytes())
}

/// The answer to `request` line by line, as it comes.
pub async fn lines(client: &Client, request: Request<Vec<u8>>) -> Result<Lines, Failure> {
    let body = begin(client, request).await?.into_body();
    Ok(Lines { body: Box::pin(body), read: Vec::new(), done: 0, ended: false })
}

async fn begin(client: &Client, request: Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
    let sent = timeout(DEADLINE, client.send(request.map(Body::from))).await;
    let response = sent.map_err(|_| Failure::Timeout)?.map_err(|error| {
        tracing::debug!(error = %crate::report::chain(&error), "no answer from the API server");
        Failure::of(&error)
    })?;
    let status = response.status();
    if status.is_success() { Ok(response) } else { Err(Failure::of_status(status.as_u16())) }
}

/// A body cut into lines.
pub struct Lines {
    body: Pin<Box<Body>>,
    read: Vec<u8>,
    /// What of `read` was given out.
    done: usize,
    ended: bool,
}

impl Lines {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// It broke, or there was a silence of `longest`: [`Failure::Timeout`].
    pub async fn next(&mut self, longest: Duration) -> Result<Option<&[u8]>, Failure> {
        self.read.drain(..std::mem::take(&mut self.done));
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read[searched..]) {
                self.done = searched + end + 1;
                return Ok(Some(&self.read[..self.done - 1]));
            }
            searched = self.read.len();
            if self.ended || searched > LONGEST_LINE {
                // What is cut off in the middle is said again by the next watch.
                return if self.ended { Ok(None) } else { Err(Failure::Broken) };
            }
            match timeout(longest, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
                Ok(Some(Err(_))) => return Err(Failure::Unreachable),
                Ok(None) => self.ended = true,
                Err(_) => return Err(Failure::Timeout),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(text: &str) -> Lines {
        Lines {
            body: Box::pin(Body::from(text.as_bytes().to_vec())),
            read: Vec::new(),
            done: 0,
            ended: false,
        }
    }

    #[tokio::test]
    async fn a_body_is_cut_into_lines_and_what_is_cut_off_is_none() {
        let mut lines = of("{\"a\": 1}\n\n{\"b\": 2}\n{\"c\"");
        for want in ["{\"a\": 1}", "", "{\"b\": 2}"] {
            assert_eq!(lines.next(DEADLINE).await.unwrap(), Some(want.as_bytes()));
        }
        for _ in 0..2 {
            assert_eq!(lines.next(DEADLINE).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn no_line_takes_all_memory() {
        let mut lines = of(&"x".repeat(LONGEST_LINE + 1));
        assert_eq!(lines.next(DEADLINE).await.map(|_| ()), Err(Failure::Broken));
    }
}
