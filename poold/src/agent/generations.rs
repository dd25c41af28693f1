//! Which steps are out of date? Per volume the newest generation taken up, kept over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use api::ApiError;
use api::pool::agent::Step;
use serde::{Deserialize, Serialize};

use crate::home;

const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    generations: BTreeMap<String, u64>,
}

/// Refuses steps of older generations than it has seen, so that a slow daemon cannot pull the system back.
pub struct Generations {
    path: PathBuf,
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Generations {
    /// Reads what was remembered. Errors name the file.
    pub fn open(path: &Path) -> anyhow::Result<Generations> {
        let remembered = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Remembered>(&bytes).with_context(|| {
                format!(
                    "{} is damaged; move it away to begin anew (all steps are looked at again)",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Remembered {
                version: VERSION,
                ..Remembered::default()
            },
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if remembered.version != VERSION {
            bail!(
                "{} has version {}; this poold reads {VERSION}",
                path.display(),
                remembered.version
            );
        }
        Ok(Generations {
            path: path.to_owned(),
            seen: Mutex::new(remembered.generations),
        })
    }

    /// Takes up a step's generation, durably. Errors: `refused` when a newer one was seen.
    pub fn accept(&self, step: &Step) -> Result<(), ApiError> {
        let mut seen = self.lock();
        let newest = seen.get(&step.volume).copied().unwrap_or(0);
        if step.generation < newest {
            return Err(ApiError::refused(format!(
                "the step is of generation {}, but generation {newest} was seen already",
                step.generation
            ))
            .object(format!("volume {}", step.volume)));
        }
        if step.generation > newest {
            let mut next = seen.clone();
            next.insert(step.volume.clone(), step.generation);
            let remembered = Remembered {
                version: VERSION,
                generations: next,
            };
            let bytes =
                serde_json::to_vec(&remembered).map_err(|error| ApiError::failed(error.to_string()))?;
            home::replace(&self.path, &bytes).map_err(|error| ApiError::failed(format!("{error:#}")))?;
            *seen = remembered.generations;
        }
        Ok(())
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use api::pool::agent::Action;

    use super::*;

    #[test]
    fn older_generations_are_refused_even_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        let step = |generation| Step {
            volume: "v".to_owned(),
            generation,
            action: Action::Forget,
        };
        let generations = Generations::open(&path).unwrap();
        generations.accept(&step(3)).unwrap();
        generations.accept(&step(3)).unwrap();
        assert!(generations.accept(&step(2)).is_err());
        drop(generations);
        let generations = Generations::open(&path).unwrap();
        assert!(generations.accept(&step(2)).is_err());
        generations.accept(&step(4)).unwrap();
        assert_eq!(generations.all().get("v"), Some(&4));
        fs::write(&path, "{").unwrap();
        assert!(Generations::open(&path).is_err());
    }
}
