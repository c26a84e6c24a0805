//! What a process finds that another one left, what it takes away, and what fails for want of memory.

use std::net::TcpStream;
use std::time::Duration;

use super::*;

#[test]
fn an_adopted_pod_follows_its_own_fail_mode_until_it_is_enrolled_though_the_agent_beats() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let (la, lb) = (Listeners::new(&lab.a), Listeners::new(&lab.b));
    let endpoints = [SocketAddr::new(lab.b.v4, 8080)];
    agent.kernel.sync_services(&service("10.96.0.5", 80, AppProtocol::Http, &endpoints), true);
    agent.enrol(&lab.a, &la, FAIL_OPEN, BOTH);
    agent.enrol(&lab.b, &lb, FAIL_OPEN, BOTH);
    let mut server = lab.spawn(&lab.b, &server_script(8080));
    assert_eq!(line(&mut server), "listening");
    agent.die();
    drop((la, lb));

    let mut agent = lab.agent();
    agent.kernel.leave_to_fail_modes().unwrap();
    // A source of which nothing was read yet: the services stay.
    assert_eq!(agent.kernel.sync_services(&Snapshot::default(), false).removed, 0);
    let b = lab.b.v4.to_string();
    assert_eq!(lab.connect(&lab.a, &b, 8080), format!("ok {b} 8080"));
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), "ok 10.96.0.5 80");
    assert_eq!((agent.count(Reason::AgentAwayOpen), agent.count(Reason::AgentAwayService)), (1, 1));
    let la = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &la, FAIL_OPEN, BOTH);
    assert_eq!(lab.connect(&lab.a, "10.96.0.1", 80), "ok 10.96.0.1 80");
    assert_eq!(agent.count(Reason::Captured), 1);
    // Once all of it was read, what isn't in it goes.
    assert_eq!(agent.kernel.sync_services(&Snapshot::default(), true).removed, 1);
    assert_eq!((agent.entries("SERVICES_V2"), agent.entries("ENDPOINTS_V1")), (0, 0));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn maps_of_other_versions_go_once_the_links_run_the_new_programs() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    agent.die();
    let maps = lab.maps();
    let before = aya::maps::MapData::from_pin(maps.join("PODS_V1")).unwrap();
    before.pin(maps.join("PODS_V0")).unwrap();
    let agent = lab.agent();
    assert!(!maps.join("PODS_V0").exists() && maps.join("PODS_V1").exists());
    assert_eq!(agent.kernel.enrolled_cookies(), [lab.a.cookie]);
}

#[test]
fn a_pod_that_is_let_go_refuses_nobody_meanwhile() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.b);
    let to = SocketAddr::new(lab.b.v4, 8080);
    let application = lab.b.listen(&to.to_string());
    for round in 0..50 {
        agent.enrol(&lab.b, &listeners, FAIL_CLOSED, BOTH);
        agent.kernel.unenrol(lab.b.cookie).unwrap();
        // Of no enrolled pod: only the pod's own look-up is asked.
        let dial = || TcpStream::connect_timeout(&to, Duration::from_secs(20));
        let dialled = netns::enter(lab.a.netns.as_fd(), dial).unwrap();
        assert!(dialled.is_ok(), "round {round}: {dialled:?}");
        drop(accept(&application));
    }
    assert_eq!(agent.count(Reason::InboundUnknownAddress), 0);
}

/// Attaches a packet filter as large as the socket's option memory allows; one instruction, never reached, is the grain.
const FILL: &str = "import ctypes,struct
s=socket.socket()
def attach(heavy,light):
  ops=[(6,0,0,0xffffffff)]+[(0xb1,0,0,0)]*heavy+[(0,0,0,0)]*light+[(6,0,0,0xffffffff)]
  b=ctypes.create_string_buffer(b''.join(struct.pack('HBBI',*op) for op in ops))
  try: s.setsockopt(socket.SOL_SOCKET,27,0)
  except OSError: pass
  try: s.setsockopt(socket.SOL_SOCKET,26,struct.pack('HL',len(ops),ctypes.addressof(b)))
  except OSError: return False
  return True
def most(fits,n):
  low,high=0,n
  while low<high:
    mid=(low+high+1)//2
    if fits(mid): low=mid
    else: high=mid-1
  return low
heavy=most(lambda n: attach(n,0),4000)
light=most(lambda n: attach(heavy,n),4094-heavy)
print('full' if not attach(heavy,light+1) and attach(heavy,light) else 'room left')
s.settimeout(20)
def dial():
  try: s.connect(('10.96.0.1',80)); print('ok',*s.getpeername())
  except OSError as e: print('errno',e.errno)
dial()
s.setsockopt(socket.SOL_SOCKET,27,0); dial()";

#[test]
fn what_cannot_be_recorded_is_refused_and_never_sent_on() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_OPEN, BOTH);
    let said = finish(lab.spawn(&lab.a, FILL));
    // Without the filter the very same socket is captured: it was the memory.
    assert_eq!(said, format!("full\n{ECONNREFUSED}\nok 10.96.0.1 80"));
    assert_eq!((agent.count(Reason::RecordFailed), agent.count(Reason::Captured)), (1, 1));
    let (stream, _) = accept(&listeners.out4);
    assert_eq!(agent.flows.original_dst(stream.as_fd()), orig("10.96.0.1", 80));
    assert!(listeners.out4.accept().is_err(), "the refused one reached the agent");
}
