//! What is the shortest story that breaks the same promise? Leaves out of a failing seed whatever it can do without.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::run::{Failure, Outcome, live};

/// Lives tried at most, and time for them.
const TRIES_MAX: usize = 600;
const TIME_MAX: Duration = Duration::from_secs(120);

/// What is left of a seed's cluster and its troubles; the default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Only this volume.
    pub volume: Option<usize>,
    /// Only these troubles, by their numbers in the script.
    pub only: Option<Vec<usize>>,
    /// Members at the beginning.
    pub members: Option<usize>,
    /// The volume's length in sectors.
    pub sectors: Option<u64>,
    /// Requests under way.
    pub depth: Option<usize>,
    /// Troubles come so many times sooner.
    pub hurry: Option<u64>,
    /// Calm begins here, in microseconds.
    pub calm_at: Option<u64>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let mut say = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}={value}")));
        };
        say("volume", self.volume.map(|n| n.to_string()));
        let only = self.only.as_ref();
        say(
            "only",
            only.map(|only| only.iter().map(usize::to_string).collect::<Vec<_>>().join("+")),
        );
        say("members", self.members.map(|n| n.to_string()));
        say("sectors", self.sectors.map(|n| n.to_string()));
        say("depth", self.depth.map(|n| n.to_string()));
        say("hurry", self.hurry.map(|n| n.to_string()));
        say("calm_at", self.calm_at.map(|n| n.to_string()));
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let mut shape = Shape::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or(format!("`{part}` is not NAME=VALUE"))?;
            let bad = |_| format!("`{value}` is not a number, in {name}");
            match name {
                "volume" => shape.volume = Some(value.parse().map_err(bad)?),
                "only" => {
                    let numbers = value.split('+').filter(|number| !number.is_empty());
                    let only: Result<Vec<usize>, _> = numbers.map(str::parse).collect();
                    shape.only = Some(only.map_err(bad)?);
                }
                "members" => shape.members = Some(value.parse().map_err(bad)?),
                "sectors" => shape.sectors = Some(value.parse().map_err(bad)?),
                "depth" => shape.depth = Some(value.parse().map_err(bad)?),
                "hurry" => shape.hurry = Some(value.parse().map_err(bad)?),
                "calm_at" => shape.calm_at = Some(value.parse().map_err(bad)?),
                other => {
                    return Err(format!(
                        "`{other}` is none of volume, only, members, sectors, depth, hurry, calm_at"
                    ));
                }
            }
        }
        Ok(shape)
    }
}

/// The shortest story found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left; with the seed it lives the same life again.
    pub shape: Shape,
    /// How it fails.
    pub failure: Failure,
    /// The troubles that are left, in words.
    pub script: Vec<String>,
    /// Troubles of the whole seed.
    pub troubles_before: usize,
    /// Lives tried.
    pub tries: usize,
}

/// Which promise was broken, whoever broke it wherever and whenever.
fn kind(failure: &Failure) -> String {
    let what = failure
        .what
        .split_once(": ")
        .map_or(&*failure.what, |(_, what)| what);
    let line = what.lines().next().unwrap_or_default();
    line.chars()
        .filter(|c| c.is_alphabetic() || *c == ' ')
        .take(24)
        .collect()
}

/// Lives what a shape leaves of a seed.
pub fn run_shaped(seed: u64, shape: &Shape, trace_lines: usize) -> Outcome {
    live(seed, Cluster::shaped(seed, shape, trace_lines))
}

struct Search {
    seed: u64,
    kind: String,
    best: Shape,
    failure: Failure,
    tries: usize,
    began: Instant,
}

impl Search {
    fn is_over(&self) -> bool {
        self.tries >= TRIES_MAX || self.began.elapsed() > TIME_MAX
    }

    /// Whether it fails in the same way; then it is the best so far.
    fn still_fails(&mut self, shape: Shape) -> bool {
        if self.is_over() || shape == self.best {
            return false;
        }
        self.tries += 1;
        match run_shaped(self.seed, &shape, 0).failure {
            Some(failure) if kind(&failure) == self.kind => {
                self.best = shape;
                self.failure = failure;
                true
            }
            _ => false,
        }
    }

    /// Leaves out runs of troubles, long ones first, as long as that helps.
    fn leave_out(&mut self) {
        let mut length = self.best.only.as_ref().map_or(0, Vec::len).div_ceil(2);
        while length > 0 && !self.is_over() {
            let mut at = 0;
            let mut helped = false;
            while let Some(mut only) = self.best.only.clone().filter(|only| at < only.len()) {
                let end = (at + length).min(only.len());
                only.drain(at..end);
                let shape = Shape {
                    only: Some(only),
                    ..self.best.clone()
                };
                if self.still_fails(shape) {
                    helped = true;
                } else {
                    at += length;
                }
                if self.is_over() {
                    return;
                }
            }
            if length == 1 && !helped {
                return;
            }
            length = if helped { length } else { length / 2 }.max(1);
        }
    }
}

/// Shrinks a failing seed; `None` when it does not fail.
pub fn shrink(seed: u64) -> Option<Shrunk> {
    let failure = run_shaped(seed, &Shape::default(), 0).failure?;
    let whole = Cluster::shaped(seed, &Shape::default(), 0);
    let troubles_before = whole.troubles().len();
    let mut search = Search {
        seed,
        kind: kind(&failure),
        best: Shape {
            only: Some((0..troubles_before).collect()),
            ..Shape::default()
        },
        failure,
        tries: 1,
        began: Instant::now(),
    };
    for volume in 0..whole.volumes() {
        let shape = Shape {
            volume: Some(volume),
            ..search.best.clone()
        };
        if whole.volumes() > 1 && search.still_fails(shape) {
            break;
        }
    }
    search.leave_out();
    let best = search.best.clone();
    let try_all = |search: &mut Search, shapes: Vec<Shape>| {
        for shape in shapes {
            if search.still_fails(shape) {
                return;
            }
        }
    };
    let members = (1..5).map(|n| Shape {
        members: Some(n),
        ..best.clone()
    });
    try_all(&mut search, members.collect());
    let best = search.best.clone();
    let depths = [1, 2, 4].map(|n| Shape {
        depth: Some(n),
        ..best.clone()
    });
    try_all(&mut search, depths.to_vec());
    let best = search.best.clone();
    let sectors = [8, 16, 32, 64, 128, 256].map(|n| Shape {
        sectors: Some(n),
        ..best.clone()
    });
    try_all(&mut search, sectors.to_vec());
    let best = search.best.clone();
    let hurries = [64, 16, 4, 2].map(|n| Shape {
        hurry: Some(n),
        ..best.clone()
    });
    try_all(&mut search, hurries.to_vec());
    let best = search.best.clone();
    let calms = [250_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000].map(|n| Shape {
        calm_at: Some(n),
        ..best.clone()
    });
    try_all(&mut search, calms.to_vec());
    search.leave_out();
    let script = Cluster::shaped(seed, &search.best, 0).troubles();
    Some(Shrunk {
        shape: search.best,
        failure: search.failure,
        script,
        troubles_before,
        tries: search.tries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_back() {
        let shape = Shape {
            volume: Some(1),
            only: Some(vec![3, 9]),
            members: Some(2),
            sectors: Some(64),
            depth: None,
            hurry: Some(4),
            calm_at: Some(500_000),
        };
        assert_eq!(shape.to_string().parse(), Ok(shape));
        assert_eq!(Ok(Shape::default()), "".parse());
        let nothing = Shape {
            only: Some(Vec::new()),
            ..Shape::default()
        };
        assert_eq!(nothing.to_string().parse(), Ok(nothing));
        assert!("members=many".parse::<Shape>().is_err() && "size=3".parse::<Shape>().is_err());
    }

    #[test]
    fn the_whole_shape_lives_the_life_of_its_seed() {
        let seed = 3;
        let digest = |shape: &Shape| run_shaped(seed, shape, 0).digest;
        let all = Cluster::shaped(seed, &Shape::default(), 0).troubles().len();
        let whole = Shape {
            only: Some((0..all).collect()),
            ..Shape::default()
        };
        assert_eq!(digest(&Shape::default()), digest(&whole));
        assert_eq!(digest(&whole), crate::run_seed(seed, 0).digest);
    }
}
