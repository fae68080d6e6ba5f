//! What a mapping permits.

use std::fmt;

use sva_core::{Access, Permissions};

/// What a mapping permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protection {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Reading to execute.
    pub execute: bool,
    /// Only privileged accesses, whatever else it permits.
    pub privileged: bool,
}

impl Protection {
    /// Nothing at all.
    pub const NONE: Self = Self { read: false, write: false, execute: false, privileged: false };
    /// Reading.
    pub const READ: Self = Self { read: true, ..Self::NONE };
    /// Reading and writing.
    pub const READ_WRITE: Self = Self { write: true, ..Self::READ };
    /// Reading and executing.
    pub const READ_EXECUTE: Self = Self { execute: true, ..Self::READ };

    /// The same, for privileged accesses only.
    pub const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    /// What it permits to accesses with or without privilege.
    pub const fn permissions(self, privileged: bool) -> Permissions {
        if self.privileged && !privileged {
            return Permissions::empty();
        }
        let bits = self.read as u8 | (self.write as u8) << 1 | (self.execute as u8) << 2;
        Permissions::from_bits_truncate(bits)
    }

    /// Whether it permits this access.
    pub const fn permits(self, access: Access) -> bool {
        self.permissions(access.is_privileged()).permit(access)
    }

    /// Whether it permits all that `other` permits, to everyone.
    pub fn includes(self, other: Self) -> bool {
        [false, true].into_iter().all(|privileged| {
            let wanted = other.permissions(privileged);
            self.permissions(privileged).contains(wanted)
        })
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (granted, letter) in [(self.read, "r"), (self.write, "w"), (self.execute, "x")] {
            f.write_str(if granted { letter } else { "-" })?;
        }
        f.write_str(if self.privileged { " for privileged accesses only" } else { "" })
    }
}
