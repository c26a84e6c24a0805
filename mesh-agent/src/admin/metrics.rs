//! The metrics server: `/metrics`, `/stats/prometheus` (where Istio's PodMonitor looks), `/livez`, `/readyz`.

use std::time::Duration;

use http::{Method, Response, StatusCode};
use tokio::net::TcpListener;

use super::AdminState;
use super::http::{self as answers, Answer};
use super::seats::Seats;

/// Connections at a time; beyond, the one that is silent longest is closed.
const CONNECTIONS: usize = 64;
/// A control loop that is busy longer than this doesn't hold up a scrape; its figures are then the last ones.
const REFRESH: Duration = Duration::from_millis(500);

/// Serves for as long as it is polled.
pub async fn serve(listener: TcpListener, state: AdminState) {
    let seats = Seats::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (state, seat) = (state.clone(), seats.take());
                tokio::spawn(async move {
                    let served = answers::serve(stream, |request| {
                        let (state, seat) = (&state, &seat);
                        async move {
                            seat.answers(true);
                            let answer = route(state, request.method(), request.uri().path()).await;
                            seat.answers(false);
                            answer
                        }
                    });
                    tokio::select! {
                        () = served => {}
                        () = seat.lost() => tracing::debug!("a silent metrics connection made room for another"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: give others time to close some.
                tracing::warn!(%error, "the metrics address can't be accepted from");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// All metrics as they are now.
pub(super) async fn exposition(state: &AdminState) -> Response<Answer> {
    // The answer itself isn't needed: to ask is what brings the kernel's figures up to date.
    drop(state.kernel(REFRESH).await);
    let warnings = state.all_warnings();
    let codes = warnings.iter().map(|warning| warning.code.as_str());
    let metrics = state.telemetry.metrics.agent();
    metrics.set_source(&state.health);
    metrics.set_rollback(state.history.with(|history| history.rolled_back()));
    metrics.set_config(state.snapshot.load().generation, codes);
    answers::metrics(state.telemetry.metrics.exposition())
}

async fn route(state: &AdminState, method: &Method, path: &str) -> Response<Answer> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return answers::text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match path {
        "/metrics" | "/stats/prometheus" => exposition(state).await,
        "/livez" => match (state.alive)() {
            Ok(()) => answers::text(StatusCode::OK, "ok"),
            Err(trouble) => answers::text(StatusCode::SERVICE_UNAVAILABLE, trouble),
        },
        "/readyz" => match state.readiness.waiting_for().as_slice() {
            [] => answers::text(StatusCode::OK, "ok"),
            tasks => {
                answers::text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}", tasks.join(", ")))
            }
        },
        _ => answers::text(StatusCode::NOT_FOUND, "try /metrics, /stats/prometheus, /livez or /readyz"),
    }
}
