//! How is a model kept in a file, so that another program can check the volume later and elsewhere?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Model, Version};

/// Version of the file; others are refused.
const SCHEMA: u32 = 1;

/// A model as JSON. Versions are numbers: write × 2, plus 1 if it wrote zeroes; 0: never written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Version of this shape.
    pub schema: u32,
    /// Of the writer.
    pub seed: u64,
    /// First sector of the region and the one behind it.
    pub region: [u64; 2],
    /// Whether sectors never written read as zeroes.
    pub zeroed: bool,
    /// `[first sector, sectors, version]`: what was acknowledged last.
    pub acknowledged: Vec<[u64; 3]>,
    /// Versions of writes without an answer, by sector.
    pub open: BTreeMap<u64, Vec<u32>>,
    /// What a power failure may bring back, by sector, oldest first, with the acknowledged version last.
    pub volatile: BTreeMap<u64, Vec<u32>>,
}

impl State {
    /// The state of a model.
    pub fn of(model: &Model) -> State {
        let mut acknowledged: Vec<[u64; 3]> = Vec::new();
        for (sector, version) in (model.region.start..).zip(&model.acknowledged) {
            let version = u64::from(version.raw());
            match acknowledged.last_mut() {
                Some([first, count, last]) if *last == version && *first + *count == sector => *count += 1,
                _ if version == 0 => {}
                _ => acknowledged.push([sector, 1, version]),
            }
        }
        let raw = |versions: &[Version]| versions.iter().map(|version| version.raw()).collect();
        State {
            schema: SCHEMA,
            seed: model.seed,
            region: [model.region.start, model.region.end],
            zeroed: model.zeroed,
            acknowledged,
            open: model
                .open
                .iter()
                .map(|(sector, open)| (*sector, raw(open)))
                .collect(),
            volatile: (model.volatile.iter())
                .map(|(sector, history)| {
                    (
                        *sector,
                        history.iter().map(|(_, version)| version.raw()).collect(),
                    )
                })
                .collect(),
        }
    }

    /// The model it came from; says what is wrong with a file that cannot be one.
    pub fn into_model(self) -> Result<Model, String> {
        if self.schema != SCHEMA {
            return Err(format!("schema {} is not {SCHEMA}", self.schema));
        }
        let [start, end] = self.region;
        if start >= end {
            return Err(format!("region {start}..{end} is empty"));
        }
        let mut model = Model::new(self.seed, start..end, self.zeroed);
        let mut last = 0;
        for [first, count, version] in self.acknowledged {
            let inside = first >= start && first.checked_add(count).is_some_and(|after| after <= end);
            let version = u32::try_from(version).map_err(|_| format!("version {version} is too large"))?;
            if !inside {
                return Err(format!(
                    "sectors {first}+{count} are outside of the region {start}..{end}"
                ));
            }
            let index = (first - start) as usize;
            model.acknowledged[index..index + count as usize].fill(Version(version));
            last = last.max(version);
        }
        for (sector, versions) in self.open {
            last = versions.iter().copied().fold(last, u32::max);
            model
                .open
                .insert(sector, versions.into_iter().map(Version).collect());
        }
        for (sector, versions) in self.volatile {
            model.volatile.insert(
                sector,
                versions
                    .into_iter()
                    .map(|version| (0, Version(version)))
                    .collect(),
            );
        }
        model.sequence_next = Version(last).sequence() + 1;
        Ok(model)
    }
}
