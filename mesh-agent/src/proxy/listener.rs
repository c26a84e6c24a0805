//! Accepts connections on one in-pod listener and gives each a task.
//!
//! First step of a connection in user space; goes on in `outbound` or `inbound`. When the pod is un-enrolled the hooks
//! are taken away first, then what is still on its way here is served, then the listener closes.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::context::Pod;
use super::drain::Drain;
use super::{inbound, outbound};
use crate::addr::ClientAddr;

/// How long to wait when the process or the system has no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(50);
/// How long a listener stays after the hooks have turned away from it: connections that they sent here just before may
/// be within their handshake still, and closing would reset them.
pub(super) const LAST_CALL: Duration = Duration::from_millis(200);

/// Which of a pod's ports a connection was handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// For what the pod opens.
    Outbound,
    /// For what is opened to it.
    Inbound,
    /// For HBONE.
    Hbone,
}

/// Accepts until `stop` begins.
pub async fn accept(pod: Rc<Pod>, listener: TcpListener, door: Door, stop: Drain) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = stop.begun() => break,
        };
        match accepted {
            Ok((stream, peer)) => begin(&pod, stream, ClientAddr::from(peer), door),
            Err(error) => wait_out(&pod, &error).await,
        }
    }
    let last_call = Instant::now() + LAST_CALL;
    while let Ok(accepted) = timeout_at(last_call, listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => begin(&pod, stream, ClientAddr::from(peer), door),
            Err(error) => wait_out(&pod, &error).await,
        }
    }
}

fn begin(pod: &Rc<Pod>, stream: TcpStream, from: ClientAddr, door: Door) {
    let Some(place) = pod.admit() else {
        return match door {
            Door::Outbound => outbound::turn_away(pod, stream, from),
            Door::Inbound | Door::Hbone => inbound::turn_away(pod, stream, from),
        };
    };
    let pod = pod.clone();
    spawn_local(async move {
        let _place = place;
        match door {
            Door::Outbound => outbound::serve(pod, stream, from).await,
            Door::Inbound => inbound::serve(pod, stream, from).await,
            // Boxed: few connections are such, and all would carry what one takes.
            Door::Hbone => Box::pin(inbound::serve_hbone(pod, stream, from)).await,
        }
    });
}

/// Errors of accept(2) are the connection's (gone before it was accepted) or a lack of descriptors; neither ends us.
async fn wait_out(pod: &Pod, error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    pod.worker.count_refused("accept_failed");
    tracing::warn!(pod = %pod.workload().name, %error, "accept failed, trying again (is the descriptor limit reached?)");
    tokio::time::sleep(BACK_OFF).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncReadExt;
    use tokio::task::LocalSet;

    use super::*;
    use crate::proxy::{Limits, testing};
    use crate::telemetry::{Options, Telemetry};

    /// What the access log says of a connection that is refused, and the reason that is counted.
    fn check(door: Door, places: usize, reason: &str, flag: &str) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let access_log = format!("json:{}", file.display()).parse().unwrap();
        let telemetry = Telemetry::new(Options { access_log, ..Options::default() }).unwrap();
        let limits = Limits { max_connections_per_pod: places, ..Limits::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, port) = LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            spawn_local(accept(testing::pod(limits, telemetry.clone()), listener, door, Drain::default()));
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let end = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
            (stream.local_addr().unwrap(), addr)
        });
        telemetry.access_log.flush();
        let line: serde_json::Value =
            serde_json::from_str(std::fs::read_to_string(&file).unwrap().trim()).unwrap();
        let expected = [
            ("response_flags", flag.to_owned()),
            ("response_code_details", reason.to_owned()),
            ("reporter", if door == Door::Outbound { "source" } else { "destination" }.to_owned()),
            ("source_address", client.to_string()),
            ("destination_address", port.to_string()),
        ];
        for (key, value) in expected {
            assert_eq!(line[key], value, "{key} of {line}");
        }
        let refused = &telemetry.metrics.agent().connections_refused;
        assert_eq!(refused.with_label_values(&[reason]).get(), 1);
    }

    #[test]
    fn a_connection_beyond_the_pods_limit_has_its_line() {
        for door in [Door::Outbound, Door::Inbound, Door::Hbone] {
            check(door, 0, "too_many_connections", "OM");
        }
    }

    #[test]
    fn a_dial_of_the_agents_own_port_has_its_line() {
        for door in [Door::Outbound, Door::Inbound, Door::Hbone] {
            check(door, 1, "no_original_destination", "NOD");
        }
    }
}
