//! What do all stories have in common? They are lived under several seeds, and wait for their members.

use mars::Status;
use sim::{Profile, Violation, World};

pub const SECOND: u64 = 1_000_000;

/// Lives a script under some seeds, and adds up what it returns.
pub fn lives(profile: &Profile, script: impl Fn(&mut World) -> Result<u64, Violation>) -> u64 {
    let one = |seed| {
        let mut world = World::new(seed, profile.clone(), 60);
        script(&mut world).unwrap_or_else(|violation| {
            panic!("seed {seed} {violation}\n{}", world.trace_lines().join("\n"));
        })
    };
    (0..20).map(one).sum()
}

/// Waits until every member is as asked for.
pub fn all_become(
    world: &mut World,
    members: &[usize],
    micros_max: u64,
    is: impl Fn(&Status) -> bool,
) -> Result<(), Violation> {
    let all = |world: &World| members.iter().all(|node| world.status(*node).is_some_and(&is));
    assert!(
        world.run_until(micros_max, all)?,
        "no replication between {members:?}"
    );
    Ok(())
}
