//! The admin API's paths.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::http::{Answer, json, problem};
use super::route_test::{self, Refusal};
use super::{AdminState, Command, api, authz_check, metrics, views};
use crate::report;

/// How long the control loop may take.
const CONTROL: Duration = Duration::from_secs(2);
/// A filter is short.
const BODY: usize = 64 * 1024;
/// The objects of one generation are below this.
const GENERATIONS: &str = "/v1/config/history/";

pub(super) async fn answer(state: AdminState, request: Request<Incoming>) -> Response<Answer> {
    let get = request.method() == Method::GET;
    let path = request.uri().path().to_owned();
    let snapshot = state.snapshot.load_full();
    match path.as_str() {
        "/v1/status" if get => json(&views::status(&state, state.kernel(CONTROL).await)),
        "/v1/workloads" if get => json(&views::workloads(&snapshot, &state.pods.load())),
        "/v1/services" if get => json(&views::services(&snapshot, state.about.kernel_services)),
        "/v1/routes" if get => json(&views::routes(&snapshot)),
        "/v1/policies" if get => json(&views::policies::list(&snapshot, &state.warnings.load())),
        "/v1/routes/test" if request.method() == Method::POST => test_route(&state, request).await,
        "/v1/authz/check" if request.method() == Method::POST => check_authorization(&state, request).await,
        "/v1/endpoints" if get => json(&views::endpoints(&snapshot)),
        "/v1/connections" if get => json(&views::connections(&state.telemetry.connections)),
        "/v1/config" if get => json(&views::dump(&state)),
        "/v1/config/history" if get => json(&views::history(&state.history.get())),
        "/v1/config/rollback" if request.method() == Method::PUT => roll_back(&state, request).await,
        "/v1/live/edges" if get => live(&state, &request, views::live::edges),
        "/v1/live/history" if get => live(&state, &request, views::live::history),
        "/v1/live/routes" if get => live(&state, &request, views::live::routes),
        "/v1/metrics" if get => metrics::exposition(&state).await,
        "/v1/warnings" if get => json(&state.all_warnings()),
        "/v1/certificates" if get => json(&state.identities.list()),
        "/v1/bpf" if get => match state.kernel(CONTROL).await {
            Some(kernel) => json(&kernel),
            None => unanswered(),
        },
        "/v1/log" if get => log_filter(&state),
        "/v1/log" if request.method() == Method::PUT => set_log(&state, request).await,
        "/v1/drain" if request.method() == Method::POST => drain(&state).await,
        "/v1/log" | "/v1/drain" | "/v1/config/rollback" | "/v1/routes/test" | "/v1/authz/check" => {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this method isn't for this path")
        }
        _ if !get => problem(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        _ if path.starts_with(GENERATIONS) => generation(&state, &path[GENERATIONS.len()..]),
        _ => problem(StatusCode::NOT_FOUND, format!("this agent has no {path}; is the CLI newer than it?")),
    }
}

/// What passed in the window that the query asks for.
fn live<T: Serialize>(
    state: &AdminState,
    request: &Request<Incoming>,
    view: impl Fn(&AdminState, Duration) -> T,
) -> Response<Answer> {
    match views::live::window(request.uri().query()) {
        Ok(window) => json(&view(state, window)),
        Err(error) => problem(StatusCode::BAD_REQUEST, error),
    }
}

fn unanswered() -> Response<Answer> {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "the agent's control loop doesn't answer; it starts, stops or hangs",
    )
}

fn log_filter(state: &AdminState) -> Response<Answer> {
    match state.log.get() {
        Ok(filter) => json(&api::LogFilter { filter }),
        Err(error) => problem(StatusCode::CONFLICT, report::chain(&error).to_string()),
    }
}

async fn set_log(state: &AdminState, request: Request<Incoming>) -> Response<Answer> {
    let wanted: api::LogFilter = match body(request).await {
        Ok(wanted) => wanted,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    match state.log.set(&wanted.filter) {
        Ok(()) => {
            tracing::info!(filter = wanted.filter, "the log's filter was changed");
            log_filter(state)
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, report::chain(&error).to_string()),
    }
}

fn generation(state: &AdminState, number: &str) -> Response<Answer> {
    let found = number.parse().ok().and_then(|number| views::generation(&state.history.get(), number));
    match found {
        Some(generation) => json(&generation),
        None => problem(
            StatusCode::NOT_FOUND,
            format!("generation {number} isn't kept: `mesh-agent config history` lists those that are"),
        ),
    }
}

/// A rollback, or its release; answers with how the configuration stands then.
async fn roll_back(state: &AdminState, request: Request<Incoming>) -> Response<Answer> {
    let wanted: api::RollbackRequest = match body(request).await {
        Ok(wanted) => wanted,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    match tokio::time::timeout(CONTROL, state.history.ask(wanted.generation)).await {
        Ok(Some(Ok(()))) => json(&views::config(state, &state.snapshot.load())),
        Ok(Some(Err(refusal))) => problem(StatusCode::CONFLICT, refusal),
        Ok(None) | Err(_) => unanswered(),
    }
}

async fn test_route(state: &AdminState, request: Request<Incoming>) -> Response<Answer> {
    let question = match body(request).await {
        Ok(question) => question,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    let (snapshot, warnings) = (state.snapshot.load_full(), state.warnings.load());
    match route_test::answer(&snapshot, state.about.registry_only, &warnings, &question) {
        Ok(answer) => json(&answer),
        Err(refusal @ Refusal::Question(_)) => problem(StatusCode::BAD_REQUEST, refusal.to_string()),
        Err(refusal @ Refusal::NoPod(_)) => problem(StatusCode::NOT_FOUND, refusal.to_string()),
    }
}

async fn check_authorization(state: &AdminState, request: Request<Incoming>) -> Response<Answer> {
    let question = match body(request).await {
        Ok(question) => question,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    match authz_check::answer(&state.snapshot.load_full(), &question) {
        Ok(answer) => json(&answer),
        Err(refusal @ authz_check::Refusal::Question(_)) => {
            problem(StatusCode::BAD_REQUEST, refusal.to_string())
        }
        Err(refusal @ authz_check::Refusal::Unknown(_)) => {
            problem(StatusCode::NOT_FOUND, refusal.to_string())
        }
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    let limited = Limited::new(request.into_body(), BODY).collect();
    let body = limited.await.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn drain(state: &AdminState) -> Response<Answer> {
    let (answer, begun) = oneshot::channel();
    let ask = async { state.control.send(Command::Drain(answer)).await.is_ok() && begun.await.is_ok() };
    match tokio::time::timeout(CONTROL, ask).await {
        Ok(true) => json(&serde_json::json!({ "draining": true })),
        Ok(false) | Err(_) => unanswered(),
    }
}
