//! What is a thing called? Names people type and numbers that never change.

use std::fmt;
use std::sync::Arc;

/// Longest name of a node, volume or snapshot, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Names with a meaning of their own in commands and paths.
const RESERVED: [&str; 10] = [
    "all", "any", "auto", "control", "default", "local", "none", "pool", "self", "vhost",
];

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not of the form `[a-z0-9][a-z0-9._-]{0,62}`.
    #[error(
        "`{name}` is not a valid name: use 1 to 63 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit"
    )]
    Form {
        /// What was given.
        name: String,
    },
    /// A word that commands use themselves.
    #[error("`{name}` is a reserved word; choose another name")]
    Reserved {
        /// What was given.
        name: String,
    },
}

fn check_name(name: &str) -> Result<(), InvalidName> {
    let form = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !form {
        return Err(InvalidName::Form {
            name: name.to_owned(),
        });
    }
    if RESERVED.contains(&name) {
        return Err(InvalidName::Reserved {
            name: name.to_owned(),
        });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Cheap to clone: copies share the text.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name that came from outside.
            pub fn new(name: &str) -> Result<$name, InvalidName> {
                check_name(name)?;
                Ok($name(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<$name, InvalidName> {
                $name::new(name)
            }
        }
    };
}

name_type! {
    /// A host of the pool, by the name the administrator gave it.
    NodeId
}

name_type! {
    /// What people call a volume; may be changed, so nothing on disk depends on it.
    VolumeName
}

name_type! {
    /// What people call a snapshot of a volume; no two of one volume have the same at one time.
    SnapshotName
}

/// A volume's identity for life: 128 random bits, given once by whoever creates it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u128);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

impl std::str::FromStr for VolumeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<VolumeId, InvalidName> {
        let form = || InvalidName::Form {
            name: text.to_owned(),
        };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(form());
        }
        u128::from_str_radix(text, 16).map(VolumeId).map_err(|_| form())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        let check = |name: &str, ok: bool| assert_eq!(VolumeName::new(name).is_ok(), ok, "{name:?}");
        check("web-1", true);
        check("0", true);
        check("a.b_c-d", true);
        check(&"a".repeat(63), true);
        check(&"a".repeat(64), false);
        check("", false);
        check("-a", false);
        check("Web", false);
        check("a/b", false);
        check("ä", false);
        check("all", false);
    }

    #[test]
    fn a_volume_id_reads_back() {
        let id = VolumeId(0x1234);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("12".parse::<VolumeId>().is_err());
    }
}
