//! Scenarios as text: what should be, what is seen, and the steps between them.

use model::{ReplicaState, VolumeId, VolumeName, VolumeSize};

use super::*;
use crate::observed::Replica;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn members(names: &str) -> Vec<Member> {
    names
        .chars()
        .map(|c| Member {
            node: node(&c.to_string()),
            addr: format!("{c}:7777"),
        })
        .collect()
}

/// `new|live|deleting a ab c ad`: life, primary, members, leaving, doors (`-` for none).
pub fn desired(text: &str) -> VolumeDesired {
    let words: Vec<&str> = text.split_whitespace().collect();
    let list = |word: &str| {
        word.chars()
            .filter(|c| *c != '-')
            .map(|c| node(&c.to_string()))
            .collect::<Vec<_>>()
    };
    let places = |word: &str| {
        list(word)
            .into_iter()
            .map(|node| Placement {
                node,
                vg: "vg".to_owned(),
            })
            .collect()
    };
    let door = |node| Door {
        node,
        kind: DoorKind::Nbd,
        at: DoorAt::UnixDefault,
        read_only: false,
    };
    VolumeDesired {
        id: VolumeId(1),
        name: VolumeName::new("web").unwrap(),
        size: VolumeSize::new(4096).unwrap(),
        generation: 7,
        life: match words[0] {
            "new" => Life::New,
            "live" => Life::Live,
            _ => Life::Deleting,
        },
        primary: node(words[1]),
        members: places(words[2]),
        leaving: places(words[3]),
        doors: list(words[4]).into_iter().map(door).collect(),
    }
}

/// One line per host that is seen: `a disk primary:uptodate ab door`; `remote` for a volume without a replica.
pub fn observed(text: &str) -> VolumeObserved {
    let mut observed = VolumeObserved::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let mut host = HostSeen {
            generation: 7,
            ..HostSeen::default()
        };
        let mut volume = None::<VolumeSeen>;
        for word in words {
            if word == "disk" {
                host.disks.insert("vg".to_owned());
            } else if word == "old" {
                host.generation = 6;
            } else if word == "door" {
                let door = Door {
                    node: node(name),
                    kind: DoorKind::Nbd,
                    at: DoorAt::Unix("/run/web.nbd.sock".to_owned()),
                    read_only: false,
                };
                volume.get_or_insert_default().doors.push(door);
            } else if word == "remote" {
                volume.get_or_insert_default();
            } else if let Some((role, state)) = word.split_once(':') {
                let role = if role == "primary" {
                    Role::Primary
                } else {
                    Role::Secondary
                };
                let state = ReplicaState::ALL
                    .into_iter()
                    .find(|s| s.to_string() == state)
                    .unwrap();
                let replica = Replica {
                    role,
                    state,
                    term: 1,
                    sync_percent: 0.0,
                    sync_copied_bytes: 0,
                };
                volume.get_or_insert_default().replica = Some(replica);
            } else {
                volume.get_or_insert_default().members = members(word);
            }
        }
        host.volume = volume;
        observed.hosts.insert(node(name), host);
    }
    observed
}

fn words(members: &[Member]) -> String {
    members.iter().map(|member| member.node.as_str()).collect()
}

fn describe(step: &Step) -> String {
    let what = match &step.action {
        Action::DiskCreate { .. } => "disk".to_owned(),
        Action::ReplicaCreate { birth, members, .. } => {
            format!("create {birth:?} {}", words(members)).to_lowercase()
        }
        Action::RemoteCreate { members } => format!("remote {}", words(members)),
        Action::SetMembers { members } => format!("members {}", words(members)),
        Action::HandOver { to } => format!("hand-over {to}"),
        Action::DoorOpen { .. } => "open".to_owned(),
        Action::DoorClose { .. } => "close".to_owned(),
        Action::Forget => "forget".to_owned(),
        Action::DiskRemove { .. } => "disk-remove".to_owned(),
    };
    assert_eq!(step.generation, 7);
    format!("{}: {what}", step.node)
}

fn check(name: &str, should: &str, is: &str, want: &[&str]) -> Plan {
    let plan = plan(&desired(should), &observed(is), |node| {
        Some(format!("{node}:7777"))
    });
    let steps: Vec<String> = plan.steps.iter().map(describe).collect();
    assert_eq!(steps, want, "{name}; waits: {:?}", plan.waits);
    plan
}

#[test]
fn a_new_volume_is_born_once() {
    let is = "a\n b\n c";
    let want = [
        "a: disk",
        "a: create primary ab",
        "b: disk",
        "b: create secondary ab",
    ];
    let plan = check("first", "new a ab - -", is, &want);
    assert!(!plan.born);
    let is = "a disk primary:uptodate ab\n b disk secondary:syncing ab";
    assert!(check("seen", "new a ab - -", is, &[]).born);
    check(
        "a lost primary is never born again",
        "live a ab - -",
        "a\n b disk secondary:unreachable ab",
        &[],
    );
    check(
        "a lost secondary is filled anew",
        "live a ab - -",
        "a disk primary:uptodate ab\n b",
        &["b: disk", "b: create secondary ab"],
    );
}

#[test]
fn members_that_change_are_told_to_every_host() {
    check(
        "join",
        "live a abc - -",
        "a disk primary:uptodate ab\n b disk secondary:uptodate ab\n c",
        &[
            "a: members abc",
            "b: members abc",
            "c: disk",
            "c: create secondary abc",
        ],
    );
    check(
        "leave, and a remote door elsewhere",
        "live a ab c d",
        "a disk primary:uptodate abc\n b disk secondary:uptodate ab\n c disk secondary:uptodate abc\n d remote abc door",
        &["a: members ab", "c: forget", "c: disk-remove", "d: members ab"],
    );
}

#[test]
fn the_role_moves_only_to_a_whole_replica() {
    let both = "a disk primary:uptodate ab\n b disk secondary:";
    check(
        "whole",
        "live b ab - -",
        &format!("{both}uptodate ab"),
        &["a: hand-over b"],
    );
    check(
        "behind",
        "live b ab - -",
        &format!("{both}behind ab"),
        &["a: hand-over b"],
    );
    check("syncing", "live b ab - -", &format!("{both}syncing ab"), &[]);
    check(
        "done",
        "live b ab - -",
        "a disk secondary:uptodate ab\n b disk primary:uptodate ab",
        &[],
    );
    check(
        "successor not seen",
        "live b ab - -",
        "a disk primary:uptodate ab",
        &[],
    );
    check(
        "primary not seen",
        "live b ab - -",
        "b disk secondary:unreachable ab",
        &[],
    );
}

#[test]
fn a_replica_leaves_without_cutting_off_its_guests() {
    let a = "a disk primary:uptodate a\n";
    check(
        "plain",
        "live a a b -",
        &format!("{a} b disk secondary:uptodate ab"),
        &["b: forget", "b: disk-remove"],
    );
    check(
        "with a door",
        "live a a b b",
        &format!("{a} b disk secondary:uptodate ab door"),
        &["b: remote a", "b: disk-remove"],
    );
    check(
        "still primary",
        "live a a b -",
        "b disk primary:uptodate ab\n a disk secondary:uptodate a",
        &["b: hand-over a"],
    );
    let half = check(
        "half done",
        "live a a b -",
        &format!("{a} b disk"),
        &["b: disk-remove"],
    );
    assert!(half.gone.is_empty());
    let gone = check("gone", "live a a b -", &format!("{a} b"), &[]);
    assert_eq!(gone.gone, [node("b")]);
    let gone = check(
        "gone, door stays",
        "live a a b b",
        &format!("{a} b remote a door"),
        &[],
    );
    assert_eq!(gone.gone, [node("b")]);
    let absent = check("not seen", "live a a b -", a, &[]);
    assert!(absent.gone.is_empty() && !absent.waits.is_empty());
}

#[test]
fn doors_open_where_they_should() {
    let a = "a disk primary:uptodate a";
    check("at the primary", "live a a - a", a, &["a: open"]);
    check("open", "live a a - a", &format!("{a} door"), &[]);
    check("close", "live a a - -", &format!("{a} door"), &["a: close"]);
    check(
        "remote",
        "live a a - c",
        &format!("{a}\n c"),
        &["c: remote a", "c: open"],
    );
    check(
        "remote closed",
        "live a a - -",
        &format!("{a}\n c remote a door"),
        &["c: close", "c: forget"],
    );
    check(
        "not before birth",
        "new a a - a",
        "a",
        &["a: disk", "a: create primary a"],
    );
}

#[test]
fn everything_of_a_deleted_volume_goes() {
    let is = "a disk primary:uptodate ab door\n b disk secondary:uptodate ab\n c remote ab door";
    let want = [
        "a: members a",
        "a: close",
        "a: forget",
        "a: disk-remove",
        "b: forget",
        "b: disk-remove",
        "c: close",
        "c: forget",
    ];
    check("all", "deleting a - ab -", is, &want);
    let alone = ["a: forget", "a: disk-remove"];
    check("alone", "deleting a - a -", "a disk primary:uptodate a", &alone);
    let end = check("end", "deleting a - ab -", "a\n b\n c", &[]);
    assert_eq!(end.gone.len(), 2);
}

#[test]
fn what_nobody_asked_for_is_left_alone() {
    let plan = check(
        "foreign replica",
        "live a a - -",
        "a disk primary:uptodate a\n z disk secondary:behind a",
        &[],
    );
    assert_eq!(plan.waits.len(), 1);
}
