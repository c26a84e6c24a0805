//! The proxies that the agent is compared with, each as plain as its documentation allows: one worker, no access log,
//! keep-alive to the server.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_agent::lab::{Pod, PodCommand, Running, eventually};

use crate::policies;
use crate::rows::{HOOKED, REDIRECT, REDIRECT_ENVOY};
use crate::scene::{HTTP1, HTTP1_TOO, HTTP2, MARK, PROXY_CORE, REDIRECTED, REDIRECTED_TOO, Scene, tool};

/// A proxy that runs, with where it listens for each kind of work.
pub struct Peer {
    pub name: &'static str,
    pub running: Running,
    pub http1: Option<u16>,
    pub http2: Option<u16>,
    pub tcp: Option<u16>,
    /// With the routes and policies of `policies`.
    pub policies: Option<u16>,
}

type Start = fn(&Scene) -> Result<Peer>;

/// Starts all that are there; the others are returned by name with the reason.
pub fn start(scene: &Scene) -> (Vec<Peer>, Vec<String>) {
    let starts: [(&str, Start); 6] = [
        ("bare hyper", hyper1),
        ("bare hyper (HTTP/2)", hyper2),
        ("bare tokio copy", copy),
        ("Envoy", envoy),
        ("nginx", nginx),
        ("haproxy", haproxy),
    ];
    let (mut peers, mut absent) = (Vec::new(), Vec::new());
    for (name, start) in starts {
        match start(scene) {
            Ok(peer) => peers.push(peer),
            Err(error) => absent.push(format!("{name}: {error:#}")),
        }
    }
    (peers, absent)
}

fn hyper1(scene: &Scene) -> Result<Peer> {
    let args = ["http-proxy", "--listen", "127.0.0.1:20001", "--to", &server(scene, HTTP1)];
    let running = tool(&scene.client, PROXY_CORE, &args)?;
    Ok(Peer { name: "bare hyper", running, http1: Some(20001), http2: None, tcp: None, policies: None })
}

fn hyper2(scene: &Scene) -> Result<Peer> {
    let args = ["http-proxy", "--http2", "--listen", "127.0.0.1:20002", "--to", &server(scene, HTTP2)];
    let running = tool(&scene.client, PROXY_CORE, &args)?;
    Ok(Peer { name: "bare hyper", running, http1: None, http2: Some(20002), tcp: None, policies: None })
}

fn copy(scene: &Scene) -> Result<Peer> {
    let args = ["tcp-proxy", "--listen", "127.0.0.1:20003", "--to", &server(scene, HTTP1)];
    let running = tool(&scene.client, PROXY_CORE, &args)?;
    Ok(Peer { name: "bare tokio copy", running, http1: None, http2: None, tcp: Some(20003), policies: None })
}

/// A proxy that connections are brought to, with the client that they come from.
pub struct Captured {
    pub name: &'static str,
    pub running: Running,
    pub client: Pod,
    /// The server's port whose connections come this way.
    pub port: u16,
}

/// Starts the proxies behind iptables and behind our hooks; what can't be had is returned with the reason.
pub fn capture(scene: &Scene) -> (Vec<Captured>, Vec<String>) {
    let (mut captured, mut absent) = (Vec::new(), Vec::new());
    let mut add = |name, client: &Pod, port, running: Result<Running>| match running {
        Ok(running) => captured.push(Captured { name, running, client: client.clone(), port }),
        Err(error) => absent.push(format!("{name}: {error:#}")),
    };
    if let Some(client) = &scene.redirected {
        add(REDIRECT, client, HTTP1, redirected_copy(client));
        add(REDIRECT_ENVOY, client, HTTP1_TOO, redirected_envoy(scene, client));
    }
    add(HOOKED, &scene.hooked.client, HTTP1, hooked_copy(scene));
    (captured, absent)
}

/// The bare copy loop behind iptables REDIRECT.
fn redirected_copy(pod: &Pod) -> Result<Running> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, REDIRECTED)).to_string();
    tool(pod, PROXY_CORE, &["tcp-proxy", "--listen", &listen, "--mark", &MARK.to_string()])
}

/// The same behind our hooks.
fn hooked_copy(scene: &Scene) -> Result<Running> {
    let pins = scene.topology.bpffs().join("hooked").display().to_string();
    let cgroup = scene.hooked.node.cgroup().display().to_string();
    tool(&scene.hooked.client, PROXY_CORE, &["hooked-proxy", "--bpffs-dir", &pins, "--cgroup", &cgroup])
}

/// Envoy behind iptables REDIRECT.
fn redirected_envoy(scene: &Scene, pod: &Pod) -> Result<Running> {
    let config = include_str!("peers/envoy-redirect.yaml").replace("LISTEN", &REDIRECTED_TOO.to_string());
    let file = write(scene, "envoy-redirect.yaml", &config)?;
    // As in a sidecar: its own connections are known by their group.
    let group = format!("--regid={MARK}");
    let running = envoy_command(pod, &["setpriv", &group, "--clear-groups"], &file)?.start()?;
    listening(running, &[REDIRECTED_TOO])
}

pub fn envoy_command(pod: &Pod, wrapper: &[&str], config: &Path) -> Result<PodCommand> {
    let command = pod.command("taskset").args(["-c", PROXY_CORE]).args(wrapper).arg(program("envoy")?);
    let command = command.args(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart", "-c"]);
    Ok(command.arg(config))
}

fn envoy(scene: &Scene) -> Result<Peer> {
    let address = scene.server.v4();
    let config = include_str!("peers/envoy.yaml")
        .replace("SERVER", &address.to_string())
        .replace("PORT1", &HTTP1.to_string())
        .replace("PORT2", &HTTP2.to_string())
        .replace("ROUTES", &policies::envoy_routes());
    let file = write(scene, "envoy.yaml", &config)?;
    let ports = [20011, 20012, 20013, 20014];
    let running = listening(envoy_command(&scene.client, &[], &file)?.start()?, &ports)?;
    Ok(Peer {
        name: "Envoy",
        running,
        http1: Some(20011),
        http2: Some(20012),
        tcp: Some(20013),
        policies: Some(20014),
    })
}

fn nginx(scene: &Scene) -> Result<Peer> {
    let scratch = scene.topology.scratch().join("nginx");
    fs::create_dir_all(&scratch)?;
    let config = include_str!("peers/nginx.conf")
        .replace("SERVER", &server(scene, HTTP1))
        .replace("SCRATCH", &scratch.display().to_string());
    let file = write(scene, "nginx.conf", &config)?;
    let program = program("nginx")?;
    let command = scene.client.command("taskset").args(["-c", PROXY_CORE]).arg(program);
    let command = command.arg("-e").arg("stderr").arg("-p").arg(&scratch).arg("-c").arg(file);
    let running = listening(command.start()?, &[20021])?;
    Ok(Peer { name: "nginx", running, http1: Some(20021), http2: None, tcp: None, policies: None })
}

fn haproxy(scene: &Scene) -> Result<Peer> {
    let config = include_str!("peers/haproxy.cfg")
        .replace("SERVER1", &server(scene, HTTP1))
        .replace("SERVER2", &server(scene, HTTP2));
    let file = write(scene, "haproxy.cfg", &config)?;
    let program = program("haproxy")?;
    let command = scene.client.command("taskset").args(["-c", PROXY_CORE]).arg(program);
    let running = listening(command.arg("-db").arg("-f").arg(file).start()?, &[20031, 20032, 20033])?;
    Ok(Peer {
        name: "haproxy",
        running,
        http1: Some(20031),
        http2: Some(20032),
        tcp: Some(20033),
        policies: None,
    })
}

fn server(scene: &Scene, port: u16) -> String {
    SocketAddr::from((scene.server.v4(), port)).to_string()
}

pub fn write(scene: &Scene, name: &str, text: &str) -> Result<PathBuf> {
    let path = scene.topology.scratch().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// A program by name. Envoy's Python package has its binary among its files.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_binary(file)) {
        return Ok(found);
    }
    let find = format!(
        "import importlib.metadata as m\nfor f in m.files('{name}-server') or []:\n  p = f.locate()\n  \
         if p.name.startswith('{name}') and p.is_file() and open(p, 'rb').read(4) == b'\\x7fELF': print(p.resolve())"
    );
    let output = std::process::Command::new("python3").args(["-c", &find]).output()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    output.lines().next().map(PathBuf::from).with_context(|| format!("{name} is not installed here"))
}

/// Whether it is a program of its own, not a wrapper script.
fn is_binary(file: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(file).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *b"\x7fELF"
}

/// The process, once it listens on each port. Nothing connects to find out: behind REDIRECT a proxy would take such a
/// connection for one to itself.
pub fn listening(mut running: Running, ports: &[u16]) -> Result<Running> {
    let pid = running.pid();
    let ready = eventually(Duration::from_secs(10), || {
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
        // Local address, remote address, state: 0A is LISTEN (man 5 proc).
        let listens = |port: &u16| {
            let end = format!(":{port:04X}");
            sockets.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some("0A")
            })
        };
        anyhow::ensure!(ports.iter().all(listens), "does not listen");
        Ok(())
    });
    if ready.is_err() {
        let text = format!("{}{}", running.stdout(), running.stderr());
        let ended = running.try_wait().map_or(String::new(), |code| format!(" (exit code {code})"));
        anyhow::bail!("does not listen{ended}: {}", text.lines().last().unwrap_or("no message"));
    }
    Ok(running)
}
