//! A collector of traces and logs on the node, made of OpenTelemetry's own messages, and what it was told.
//!
//! A python process, so that what the agent encodes by hand is decoded by somebody else.

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{AgentOptions, Running, eventually};
use serde_json::Value;

use crate::http1::{Message, read_message};
use crate::peers::{python, script};
use crate::{PATIENCE, SOON};

/// A collector, by gRPC and HTTP.
pub struct Collector {
    ports: [u16; 2],
    running: Option<Running>,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let mut collector = Self::absent()?;
        collector.revive()?;
        Ok(collector)
    }

    /// One that isn't there yet, at ports that are free.
    pub fn absent() -> Result<Self> {
        let free = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let [grpc, http] = free;
        Ok(Self { ports: [grpc?.local_addr()?.port(), http?.local_addr()?.port()], running: None })
    }

    /// Starts it, with nothing that was told before.
    pub fn revive(&mut self) -> Result<()> {
        let mut command = Command::new(python());
        command.arg("-u").arg(script("otlp_collector.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args(self.ports.map(|port| port.to_string()));
        let mut running = Running::start(command)?;
        running.wait_for_line("listening", PATIENCE * 2).context("pip install opentelemetry-proto grpcio")?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it at once.
    pub fn die(&mut self) {
        self.running = None;
    }

    /// `options` with traces, and the access log if it is otlp, sent here, by `grpc` or `http`.
    pub fn flags(&self, options: AgentOptions, protocol: &str) -> AgentOptions {
        let port = self.ports[usize::from(protocol == "http")];
        options.flag("otlp-endpoint", format!("http://127.0.0.1:{port}")).flag("otlp-protocol", protocol)
    }

    /// Has it answer so from here on; see the script.
    pub fn answer(&self, mode: &str) -> Result<()> {
        let length = mode.len();
        let answer =
            self.ask(&format!("POST /mode HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{mode}"))?;
        ensure!(answer.status() == 204, "{}", answer.status());
        Ok(())
    }

    /// All that it knows.
    pub fn state(&self) -> Result<Value> {
        let answer = self.ask("GET /spans HTTP/1.1\r\nHost: c\r\n\r\n")?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Requests that came so far, answered or not.
    pub fn requests(&self) -> Result<usize> {
        Ok(self.state()?["requests"].as_array().map_or(0, Vec::len))
    }

    /// Spans so far of requests with this `x-request-id`, the first to begin first where parents tell.
    pub fn spans(&self, request: &str) -> Result<Vec<Value>> {
        self.spans_with(|span| span["attributes"]["http.request.header.x-request-id"][0] == request)
    }

    /// Spans so far of which this holds.
    pub fn spans_with(&self, holds: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let state = self.state()?;
        let spans = state["spans"].as_array().context("no list of spans")?;
        Ok(spans.iter().filter(|span| holds(span)).cloned().collect())
    }

    /// Waits for so many spans of requests with this `x-request-id`.
    pub fn wait(&self, request: &str, count: usize) -> Result<Vec<Value>> {
        let holds = |span: &Value| span["attributes"]["http.request.header.x-request-id"][0] == request;
        self.wait_with(request, count, holds)
    }

    /// Waits for so many spans of which this holds. A client span comes before the server span below it.
    pub fn wait_with(&self, what: &str, count: usize, holds: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut spans = eventually(SOON, || {
            let spans = self.spans_with(&holds)?;
            ensure!(spans.len() == count, "{} spans of {what}, not {count}: {spans:#?}", spans.len());
            Ok(spans)
        })?;
        let depth = |span: &Value| {
            let parent = |of: &Value| spans_by_id(&spans, &of["parent"]);
            std::iter::successors(parent(span), parent).count()
        };
        let mut order: Vec<_> = spans.iter().map(depth).zip(0..).collect();
        order.sort_unstable();
        let sorted = order.into_iter().map(|(_, at): (usize, usize)| spans[at].clone()).collect();
        spans = sorted;
        Ok(spans)
    }

    /// Records of the access log so far of which this holds.
    pub fn records(&self, holds: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let state = self.state()?;
        let records = state["records"].as_array().context("no list of records")?;
        Ok(records.iter().filter(|record| holds(record)).cloned().collect())
    }

    /// Waits for the record of a request with this `x-request-id`.
    pub fn wait_record(&self, request: &str) -> Result<Value> {
        let holds = |record: &Value| record["attributes"]["http.request.header.x-request-id"][0] == request;
        self.wait_record_with(request, holds)
    }

    /// Waits for the one record of which this holds.
    pub fn wait_record_with(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(SOON, || {
            let mut records = self.records(&holds)?;
            ensure!(records.len() == 1, "{} records of {what}: {records:#?}", records.len());
            records.pop().context("none")
        })
    }

    fn ask(&self, request: &str) -> Result<Message> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[1]));
        let mut stream = TcpStream::connect_timeout(&at, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(request.as_bytes())?;
        read_message(&mut BufReader::new(stream), false)?.context("the collector hangs up")
    }
}

fn spans_by_id(spans: &[Value], id: &Value) -> Option<Value> {
    spans.iter().find(|span| span["id"] == *id).cloned()
}
