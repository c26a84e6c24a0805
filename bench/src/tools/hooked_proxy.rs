//! The bare tokio copy loop behind the agent's kernel programs instead of iptables: what the way into a proxy costs by
//! itself, the same proxy behind both.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_agent::addr::ClientAddr;
use mesh_agent::kernel::{
    EnrolPod, Families, Flows, HeartbeatMap, Kernel, KernelServices, Options, Ports, monotonic_ns, netns,
};
use mesh_common::{FAIL_CLOSED, OUTBOUND_PORT, PodEntry, capture};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;

use super::{block_on, listen, say_ready};

/// As the agent's.
const BEAT: Duration = Duration::from_millis(100);
const STALE_AFTER: Duration = Duration::from_millis(900);

#[derive(clap::Args)]
pub struct Args {
    /// Directory for pins
    #[arg(long)]
    bpffs_dir: PathBuf,
    /// Subtree whose sockets are seen
    #[arg(long)]
    cgroup: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    block_on(async {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, OUTBOUND_PORT)))?;
        let options = Options {
            bpffs_dir: args.bpffs_dir.clone(),
            cgroup: args.cgroup.clone(),
            ports: Ports::default(),
            stale_after: STALE_AFTER,
            services: KernelServices::Off,
        };
        let mut kernel = Kernel::load(&options)?;
        let flows = Rc::new(kernel.flows()?);
        let mut heartbeat = kernel.heartbeat()?;
        heartbeat.beat(monotonic_ns())?;
        thread::spawn(move || beat(heartbeat));
        let cookie = netns::cookie_here()?;
        let netns = File::open("/proc/self/ns/net")?;
        kernel.enrol(&EnrolPod {
            cookie,
            entry: PodEntry { fail_mode: FAIL_CLOSED, capture: capture::OUTBOUND },
            addresses: &[],
            netns: netns.as_fd(),
            inbound: Families { v4: Some(listener.as_fd()), v6: None },
            hbone: Families::default(),
        })?;
        say_ready();
        loop {
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let flows = flows.clone();
            spawn_local(async move {
                // A connection that fails is seen by the client, which counts it.
                let _ = copy(stream, ClientAddr::from(peer), &flows).await;
            });
        }
    })
}

fn beat(mut heartbeat: HeartbeatMap) {
    while heartbeat.beat(monotonic_ns()).is_ok() {
        thread::sleep(BEAT);
    }
}

async fn copy(mut stream: TcpStream, client: ClientAddr, flows: &Flows) -> Result<()> {
    stream.set_nodelay(true)?;
    let to = flows.original_dst(stream.as_fd()).context("no original destination")?;
    let socket = TcpSocket::new_v4()?;
    flows.mark_own(socket.as_fd(), Some(client))?;
    let mut server = socket.connect(to.socket_addr()).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}
