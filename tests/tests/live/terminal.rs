//! `top` on a terminal: what it draws is the traffic, and the terminal is left as it was on every way out.

use std::path::Path;
use std::process::Command;

use mesh_tests::pty::{ENTER, Screen};
use mesh_tests::{SOON, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{need_nodes, send, serve};

fn top(state_dir: &Path) -> Screen {
    let mut command = Command::new(agent_binary().unwrap());
    command.args(["top", "-t", "10m"]).env("MESH_AGENT_STATE_DIR", state_dir);
    Screen::start(command).unwrap()
}

#[test]
fn top_draws_the_traffic_and_leaves_by_key_and_by_signal() {
    let nodes = need_nodes!();
    let (_server, _, service) = serve(nodes, &nodes.cart, "drawn");
    send(nodes, service, "/", 4, 200);
    let mut screen = top(nodes.near.state_dir());
    screen.shows(SOON, &["node node-a", "shop/web", "shop/cart"]).unwrap();
    assert!(screen.written().contains(ENTER));
    assert!(!screen.is_cooked().unwrap(), "keys are taken one by one");
    screen.press("\t").unwrap();
    screen.shows(SOON, &["mesh-agent stat svc", "drawn"]).unwrap();
    screen.press("/no-such-thing\r").unwrap();
    screen.shows(SOON, &["nothing passes"]).unwrap();
    screen.press("q").unwrap();
    screen.leaves(SOON).unwrap();

    let mut interrupted = top(nodes.near.state_dir());
    interrupted.shows(SOON, &["shop/web"]).unwrap();
    interrupted.press("\x03").unwrap();
    interrupted.leaves(SOON).unwrap();

    let terminated = top(nodes.near.state_dir());
    terminated.shows(SOON, &["shop/web"]).unwrap();
    kill(Pid::from_raw(i32::try_from(terminated.pid()).unwrap()), Signal::SIGTERM).unwrap();
    terminated.leaves(SOON).unwrap();
}
