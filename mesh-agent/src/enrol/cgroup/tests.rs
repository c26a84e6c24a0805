//! The layouts that kubelets and runtimes make, as their hosts show them.
#![allow(clippy::unwrap_used)]

use super::*;

const UID: &str = "8f3c2a10-5b7e-4d06-9a41-c2d7e61f0b93";
const CONTAINER: &str = "4f1d0c7be2a95d3386f0b1c4e7a2d9586c3b1f0e9d8a7b6c5f4e3d2c1b0a9f8e";

/// `text` with UID, U_I_D (systemd's spelling) and CID filled in.
fn text(template: &str) -> String {
    let underscored = UID.replace('-', "_");
    template.replace("U_I_D", &underscored).replace("UID", UID).replace("CID", CONTAINER)
}

fn check(layout: &str, template: &str, expected: Option<bool>) {
    let text = text(template);
    let found = place(&text).map(|place| (place.uid.into_owned(), place.nested));
    assert_eq!(found, expected.map(|nested| (UID.to_owned(), nested)), "{layout}: {text}");
}

#[test]
fn a_container_s_process_is_its_pod_s_in_every_layout() {
    let pods = [
        ("cgroup v2, cgroupfs, burstable", "0::/kubepods/burstable/podUID/CID\n"),
        ("cgroup v2, cgroupfs, guaranteed", "0::/kubepods/podUID/CID\n"),
        (
            "cgroup v2, systemd, containerd",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-CID.scope\n",
        ),
        (
            "cgroup v2, systemd, guaranteed",
            "0::/kubepods.slice/kubepods-podU_I_D.slice/cri-containerd-CID.scope\n",
        ),
        (
            "cgroup v2, systemd, CRI-O",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-CID.scope\n",
        ),
        (
            "cgroup v2, systemd, CRI-O with crun",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-CID.scope/container\n",
        ),
        ("cgroup v2, cgroupfs, CRI-O", "0::/kubepods/burstable/podUID/crio-CID\n"),
        ("cgroup v2, systemd, cri-dockerd", "0::/kubepods.slice/kubepods-podU_I_D.slice/docker-CID.scope\n"),
        (
            "kind, or another --cgroup-root with systemd",
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podU_I_D.slice/cri-containerd-CID.scope\n",
        ),
        ("another --cgroup-root with cgroupfs", "0::/k8s-node-a/kubepods/besteffort/podUID/CID\n"),
        (
            "cgroup v1, systemd",
            "12:pids:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-CID.scope\n\
             1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-CID.scope\n",
        ),
        (
            "cgroup v1, cgroupfs, some hierarchies without kubelet's groups",
            "13:misc:/\n12:rdma:/\n11:cpu,cpuacct:/kubepods/burstable/podUID/CID\n10:memory:/kubepods/burstable/podUID/CID\n\
             1:name=systemd:/kubepods/burstable/podUID/CID\n",
        ),
        (
            "hybrid, nothing in v2",
            "9:cpuset:/k8s-node-a/kubepods/podUID/CID\n1:name=systemd:/k8s-node-a/kubepods/podUID/CID\n0::/\n",
        ),
        ("hybrid, in v2 too", "9:name=systemd:/kubepods/podUID/CID\n0::/kubepods/podUID/CID\n"),
        (
            "containerd with cgroupfs under a kubelet with systemd",
            "5:devices:/system.slice/containerd.service/kubepods-besteffort-podU_I_D.slice:cri-containerd:CID\n0::/\n",
        ),
        ("from a cgroup namespace, same quality of service", "0::/../../podUID/CID\n"),
        ("from a cgroup namespace, another one", "0::/../../../besteffort/podUID/CID\n"),
        (
            "from a cgroup namespace, systemd",
            "0::/../../../kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-CID.scope\n",
        ),
    ];
    for (layout, template) in pods {
        check(layout, template, Some(false));
    }
}

#[test]
fn what_a_container_makes_below_its_own_group_is_nested_and_names_no_other_pod() {
    check("systemd in a container", "0::/kubepods/podUID/CID/init.scope\n", Some(true));
    check("docker in a container", "0::/kubepods/podUID/CID/docker/0123abcd\n", Some(true));
    check("CRI-O with crun", "0::/kubepods/podUID/crio-CID/container/init.scope\n", Some(true));
    let other = "0::/kubepods/podaaaaaaaa-1111-2222-3333-bbbbbbbbbbbb/CID/kubepods/podUID/CID\n";
    let text = text(other);
    assert_eq!(place(&text).unwrap().uid, "aaaaaaaa-1111-2222-3333-bbbbbbbbbbbb");
}

#[test]
fn what_belongs_to_no_container_is_left_out() {
    let strangers = [
        ("kernel thread", "0::/\n"),
        ("the runtime", "0::/system.slice/containerd.service\n"),
        ("a session", "0::/user.slice/user-1000.slice/session-3.scope\n"),
        ("in the pod, in no container", "0::/kubepods/burstable/podUID\n"),
        ("CRI-O's monitor", "0::/kubepods.slice/kubepods-podU_I_D.slice/crio-conmon-CID.scope\n"),
        ("CRI-O's monitor, cgroupfs", "0::/kubepods/podUID/crio-conmon-CID\n"),
        ("one that has ended", "0::/kubepods/podUID/CID (deleted)\n"),
        ("no uid", "0::/kubepods/podcast/CID\n"),
        ("no hexadecimal", "0::/kubepods/pod8f3c2a10-5b7e-4d06-9a41-c2d7e61f0bXX/CID\n"),
        ("a path outside Kubernetes", "0::/machine.slice/libpod-CID.scope\n"),
        ("nothing", ""),
        ("no cgroup file", "garbage\n"),
    ];
    for (what, template) in strangers {
        check(what, template, None);
    }
}

#[test]
fn static_pods_go_by_their_hash() {
    let found = place("0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/c1\n")
        .map(|place| place.uid.into_owned());
    assert_eq!(found.as_deref(), Some("0123456789abcdef0123456789abcdef"));
}

#[test]
fn directories_above_pods_are_known_by_their_names() {
    let above = [
        "kubepods",
        "kubepods.slice",
        "burstable",
        "besteffort",
        "kubepods-burstable.slice",
        "kubepods-besteffort.slice",
        "kubelet-kubepods.slice",
        "kubelet-kubepods-burstable.slice",
    ];
    above.into_iter().for_each(|name| assert!(holds_pods(name), "{name}"));
    let others = ["system.slice", "kubelet.slice", "kubelet", "podcast", "k8s-node-a", ""];
    others.into_iter().for_each(|name| assert!(!holds_pods(name), "{name}"));
}

proptest::proptest! {
    #[test]
    fn no_text_is_taken_for_a_pod_without_its_uid(text in "[a-z0-9:/._\\- \\n]{0,200}") {
        if let Some(place) = place(&text) {
            proptest::prop_assert!(text.contains(&*place.uid) || text.contains(&place.uid.replace('-', "_")));
        }
    }
}
