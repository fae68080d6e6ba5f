//! What a transaction asks for, and what a translation permits.

use std::fmt;

bitflags::bitflags! {
    /// What a translation or a mapping permits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct Permissions: u8 {
        /// Reading (R).
        const READ = 1;
        /// Writing (W).
        const WRITE = 1 << 1;
        /// Reading to execute (Exe).
        const EXECUTE = 1 << 2;
    }

    /// What a transaction asks for: an access of one kind, or of two kinds for an atomic operation,
    /// and how it is made.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Access: u8 {
        /// It reads data.
        const READ = 1;
        /// It writes data.
        const WRITE = 1 << 1;
        /// It reads to execute (Execute Requested in the PASID TLP prefix).
        const EXECUTE = 1 << 2;
        /// It is a privileged access (Privileged Mode Requested in the PASID TLP prefix).
        const PRIVILEGED = 1 << 3;
        /// It stops at a page that is not present. Without this the space resolves such a page, as
        /// for a page fault of the CPU.
        const PRESENT_ONLY = 1 << 4;
    }
}

impl Permissions {
    /// Reading and writing.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);

    /// Whether all that `access` needs is permitted.
    #[inline]
    pub const fn permit(self, access: Access) -> bool {
        self.contains(access.needs())
    }
}

impl Access {
    /// An atomic operation: it reads and writes.
    pub const ATOMIC: Self = Self::READ.union(Self::WRITE);

    /// The permissions that it needs.
    #[inline]
    pub const fn needs(self) -> Permissions {
        Permissions::from_bits_truncate(self.bits())
    }

    /// The same access without the flags that say how it is made: read, write or execute.
    #[inline]
    pub const fn kind(self) -> Self {
        Self::from_bits_truncate(self.bits() & Permissions::all().bits())
    }

    /// Whether it writes.
    #[inline]
    pub const fn is_write(self) -> bool {
        self.contains(Self::WRITE)
    }

    /// Whether it reads to execute.
    #[inline]
    pub const fn is_execute(self) -> bool {
        self.contains(Self::EXECUTE)
    }

    /// Whether it is a privileged access.
    #[inline]
    pub const fn is_privileged(self) -> bool {
        self.contains(Self::PRIVILEGED)
    }

    /// Whether it stops at a page that is not present.
    #[inline]
    pub const fn is_present_only(self) -> bool {
        self.contains(Self::PRESENT_ONLY)
    }

    /// The same access, stopping at a page that is not present.
    pub const fn present_only(self) -> Self {
        self.union(Self::PRESENT_ONLY)
    }

    /// The same access, with pages that are not present resolved.
    pub const fn resolving(self) -> Self {
        self.difference(Self::PRESENT_ONLY)
    }

    /// The same access as a user access.
    pub const fn unprivileged(self) -> Self {
        self.difference(Self::PRIVILEGED)
    }

    /// The same access, made for reading: one that writes reads instead.
    pub const fn reading(self) -> Self {
        if self.is_write() { self.difference(Self::WRITE).union(Self::READ) } else { self }
    }

    /// The same access, made for writing.
    pub const fn writing(self) -> Self {
        self.difference(Self::READ.union(Self::EXECUTE)).union(Self::WRITE)
    }
}

impl fmt::Display for Access {
    /// Writes the kind of the access: `read`, `write`, `read and write`, `execute`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_execute(), self.is_write(), self.contains(Self::READ)) {
            (true, false, _) => "execute",
            (true, true, _) => "execute and write",
            (false, true, false) => "write",
            (false, true, true) => "read and write",
            (false, false, _) => "read",
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows T1
    #[test]
    fn an_access_needs_the_permissions_of_its_kind_and_no_flag_of_it_is_one() {
        let all = Access::all();
        assert_eq!(all.needs(), Permissions::all());
        assert!(Permissions::READ.permit(Access::READ | Access::PRIVILEGED | Access::PRESENT_ONLY));
        assert!(!Permissions::READ.permit(Access::EXECUTE));
        assert!(!Permissions::WRITE.permit(Access::ATOMIC));
    }

    #[test]
    fn reading_and_writing_keep_how_an_access_is_made() {
        let how = Access::PRIVILEGED | Access::PRESENT_ONLY;
        assert_eq!((Access::WRITE | how).reading(), Access::READ | how);
        assert_eq!((Access::EXECUTE | how).reading(), Access::EXECUTE | how);
        assert_eq!((Access::EXECUTE | how).writing(), Access::WRITE | how);
    }
}
