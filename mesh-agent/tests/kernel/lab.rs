//! Two network namespaces joined by a veth pair, a cgroup for their processes, python as the application, and this
//! process as the agent. Everything goes when the guard is dropped.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_agent::addr::ClientAddr;
use mesh_agent::kernel::{
    self, EnrolPod, Families, Flows, HeartbeatMap, Kernel, KernelServices, Options, cgroup, monotonic_ns,
    netns,
};
use mesh_common::{PodEntry, Reason};
use socket2::{Domain, Socket, Type};

/// A listener option that nix lacks (tcp(7)): its clients are established before it is. Seconds.
#[derive(Clone, Copy)]
struct DeferAccept;

nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

pub fn defer_accept(listener: &TcpListener) {
    nix::sys::socket::setsockopt(listener, DeferAccept, &30).unwrap();
}

/// Far beyond any stall of the beating thread: who is away here says so.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// For everything that should come soon.
const DEADLINE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Two pods, `a` and `b`.
pub struct Lab {
    pub tag: String,
    /// Third part of the addresses.
    pub n: u32,
    pub a: Pod,
    pub b: Pod,
    cgroup: PathBuf,
    options: Options,
}

pub struct Pod {
    pub name: String,
    pub netns: File,
    pub cookie: u64,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

/// What of the agent matters to the kernel.
pub struct Agent {
    pub kernel: Kernel,
    pub flows: Flows,
    heartbeat: Arc<Mutex<Option<HeartbeatMap>>>,
}

/// The agent's listeners in one pod.
pub struct Listeners {
    pub out4: TcpListener,
    pub out6: TcpListener,
    pub in4: TcpListener,
    pub in6: TcpListener,
    pub hbone4: Option<TcpListener>,
}

pub fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Lab {
    /// `None`, with the reason printed, where this machine can't.
    pub fn new() -> Option<Self> {
        Self::with_subtree(false)
    }

    /// `whole_machine`: the hooks' subtree is all of cgroup2, and the agent within it; else the agent is outside.
    pub fn with_subtree(whole_machine: bool) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: needs root");
            return None;
        }
        if kernel::checks().iter().any(|check| check.name == "kernel programs" && !check.hint.is_empty()) {
            println!("SKIPPED: built without kernel programs (cargo xtask build)");
            return None;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let n = (std::process::id() * 16 + id) % 250;
        let tag = format!("mk{}-{id}", std::process::id());
        let cgroup = cgroup::cgroup2_mount().unwrap().join(&tag);
        fs::create_dir(&cgroup).unwrap();
        let (a, b) = (format!("{tag}-a"), format!("{tag}-b"));
        run(&format!(
            "ip netns add {a}; ip netns add {b}
             ip -n {a} link add eth0 type veth peer name eth0 netns {b}
             for x in {a}:1 {b}:2; do ns=${{x%:*}}; i=${{x#*:}}
               ip -n $ns addr add 10.201.{n}.$i/24 dev eth0
               ip -n $ns addr add fd00:201:{n}::$i/64 dev eth0 nodad
               ip -n $ns link set lo up; ip -n $ns link set eth0 up
               ip -n $ns route add 10.96.0.0/16 dev eth0
               ip -n $ns route add fd00:96::/64 dev eth0
             done"
        ));
        let options = Options {
            bpffs_dir: PathBuf::from("/sys/fs/bpf").join(&tag),
            cgroup: if whole_machine { cgroup::cgroup2_mount().unwrap() } else { cgroup.clone() },
            ports: kernel::Ports::default(),
            stale_after: STALE_AFTER,
            services: KernelServices::Off,
        };
        let pod = |name: String, i: u32| {
            let netns = File::open(format!("/run/netns/{name}")).unwrap();
            let cookie = netns::enter(netns.as_fd(), netns::cookie_here).unwrap().unwrap();
            let v4 = format!("10.201.{n}.{i}").parse().unwrap();
            let v6 = format!("fd00:201:{n}::{i}").parse().unwrap();
            Pod { name, netns, cookie, v4, v6 }
        };
        Some(Self { a: pod(a, 1), b: pod(b, 2), tag, n, cgroup, options })
    }

    /// A new agent process, so to speak; it beats.
    pub fn agent(&self) -> Agent {
        let kernel = Kernel::load(&self.options).unwrap();
        let flows = kernel.flows().unwrap();
        let mut map = kernel.heartbeat().unwrap();
        map.beat(monotonic_ns()).unwrap();
        let heartbeat = Arc::new(Mutex::new(Some(map)));
        let beating = heartbeat.clone();
        std::thread::spawn(move || {
            while let Some(map) = beating.lock().unwrap().as_mut() {
                map.beat(monotonic_ns()).unwrap();
                sleep(Duration::from_millis(20));
            }
        });
        Agent { kernel, flows, heartbeat }
    }

    /// Where maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.options.bpffs_dir.join("maps")
    }

    /// A process of the pod.
    pub fn spawn(&self, pod: &Pod, script: &str) -> Child {
        let shell = format!(
            "echo $$ >{}/cgroup.procs; exec nsenter --net=/run/netns/{} -- python3 -u -c \"$SCRIPT\"",
            self.cgroup.display(),
            pod.name
        );
        Command::new("sh")
            .args(["-ec", &shell])
            .env("SCRIPT", format!("import socket,sys\n{script}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What connect(2) to `dst` gives in the pod: `ok PEER PORT`, or `errno N`.
    pub fn connect(&self, pod: &Pod, dst: &str, port: u16) -> String {
        finish(self.spawn(pod, &connect_script(dst, port)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        kernel::purge(&self.options.bpffs_dir).unwrap();
        for pod in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", &pod.name]).status();
        }
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = fs::remove_dir(&self.cgroup) {
            for pid in fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
            assert!(Instant::now() < deadline, "{}: {error}", self.cgroup.display());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Pod {
    pub fn listen(&self, addr: &str) -> TcpListener {
        let listener = netns::enter(self.netns.as_fd(), || {
            let addr: SocketAddr = addr.parse().unwrap();
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            if addr.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.set_reuse_address(true).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&addr.into()).unwrap();
            socket.listen(64).unwrap();
            TcpListener::from(socket)
        })
        .unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }
}

impl Listeners {
    pub fn new(pod: &Pod) -> Self {
        Self {
            out4: pod.listen("127.0.0.1:15001"),
            out6: pod.listen("[::1]:15001"),
            in4: pod.listen("127.0.0.1:15006"),
            in6: pod.listen("[::1]:15006"),
            hbone4: None,
        }
    }
}

impl Agent {
    pub fn enrol(&mut self, pod: &Pod, listeners: &Listeners, fail_mode: u32, capture: u32) {
        let addresses = netns::enter(pod.netns.as_fd(), netns::local_addresses).unwrap().unwrap();
        assert!(addresses.contains(&pod.v4) && addresses.contains(&pod.v6), "{addresses:?}");
        let enrol = EnrolPod {
            cookie: pod.cookie,
            entry: PodEntry { fail_mode, capture },
            addresses: &addresses,
            netns: pod.netns.as_fd(),
            inbound: Families { v4: Some(listeners.in4.as_fd()), v6: Some(listeners.in6.as_fd()) },
            hbone: Families { v4: listeners.hbone4.as_ref().map(AsFd::as_fd), v6: None },
        };
        self.kernel.enrol(&enrol).unwrap();
    }

    /// The process stops beating, without a word.
    pub fn fall_silent(&self) {
        let Some(mut map) = self.heartbeat.lock().unwrap().take() else { return };
        // As if that much time had passed.
        map.beat(monotonic_ns().saturating_sub(STALE_AFTER.as_nanos() as u64 + 1).max(1)).unwrap();
    }

    /// As SIGKILL leaves it: nothing is detached or removed.
    pub fn die(self) {
        self.fall_silent();
    }

    /// An upstream socket of the agent in a pod's netns.
    pub fn dial(&self, pod: &Pod, to: SocketAddr, client: Option<ClientAddr>) -> std::io::Result<TcpStream> {
        let new = || Socket::new(Domain::for_address(to), Type::STREAM, None);
        let socket = netns::enter(pod.netns.as_fd(), new)??;
        self.flows.mark_own(socket.as_fd(), client)?;
        socket.connect_timeout(&to.into(), DEADLINE)?;
        Ok(socket.into())
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.kernel.reasons().into_iter().find(|(r, _)| *r == reason).unwrap().1
    }

    pub fn entries(&self, map: &str) -> usize {
        let walked = self.kernel.count_entries(map);
        if matches!(map, "SERVICES_V2" | "ENDPOINTS_V1") {
            let status = self.kernel.status();
            let known = status.maps.into_iter().find(|m| m.name == map).unwrap().entries;
            assert_eq!(known, walked, "{map}: books and kernel disagree");
        }
        walked
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.heartbeat.lock().unwrap().take();
    }
}

pub fn connect_script(dst: &str, port: u16) -> String {
    format!(
        "s=socket.socket(socket.AF_INET6 if ':' in '{dst}' else socket.AF_INET); s.settimeout(20)
try:
  s.connect(('{dst}',{port})); p=s.getpeername(); print('ok',p[0],p[1])
  s.close()
except OSError as e: print('errno',e.errno)"
    )
}

/// A server that says when it listens, and then what accept(2) and getpeername(2) show of each connection.
pub fn server_script(port: u16) -> String {
    format!(
        "l=socket.socket(socket.AF_INET6); l.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,0)
l.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
l.bind(('::',{port})); l.listen(); print('listening')
while True:
  c,p=l.accept()
  try: q=c.getpeername()
  except OSError: q=p
  print(p[0],p[1],*([] if p==q else ['but',q])); c.close()"
    )
}

/// The next line that a process prints.
pub fn line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    let out = child.stdout.as_mut().unwrap();
    while out.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// All that a process prints.
pub fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn accept(listener: &TcpListener) -> (TcpStream, ClientAddr) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).unwrap();
                return (stream, peer.into());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("nothing to accept: {error}"),
        }
    }
}

pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10));
    }
}
