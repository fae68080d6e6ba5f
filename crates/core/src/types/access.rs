//! Accesses, which transactions request, and permissions, which translations grant.

use std::fmt;

bitflags::bitflags! {
    /// What a translation or a mapping permits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct Permissions: u8 {
        /// Reading (R).
        const READ = 1;
        /// Writing (W).
        const WRITE = 1 << 1;
        /// Reading in order to execute (Exe).
        const EXECUTE = 1 << 2;
    }

    /// What a transaction requests: an access of one kind, or of two kinds for an atomic operation,
    /// with flags that say how the access is made.
    ///
    /// `READ`, `WRITE` and `EXECUTE` are the kind, `PRIVILEGED` and `PRESENT_ONLY` are flags. The
    /// bits of the kind are those of the [`Permissions`] that it needs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Access: u8 {
        /// Reads data.
        const READ = 1;
        /// Writes data.
        const WRITE = 1 << 1;
        /// Reads in order to execute (Execute Requested in the PASID TLP prefix; PCIe 6.0, section
        /// 6.20.2).
        const EXECUTE = 1 << 2;
        /// Is a privileged access (Privileged Mode Requested in the PASID TLP prefix; PCIe 6.0,
        /// section 6.20.2).
        const PRIVILEGED = 1 << 3;
        /// Stops at a page that is not present. Without this flag the address space resolves such a
        /// page, as for a page fault of the CPU.
        const PRESENT_ONLY = 1 << 4;
    }
}

impl Permissions {
    /// Reading and writing.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);

    /// Whether these permissions contain all that `access` needs.
    #[inline]
    pub const fn permit(self, access: Access) -> bool {
        self.contains(access.needs())
    }
}

impl Access {
    /// An atomic operation, which reads and writes.
    pub const ATOMIC: Self = Self::READ.union(Self::WRITE);

    /// The permissions that the access needs.
    #[inline]
    pub const fn needs(self) -> Permissions {
        Permissions::from_bits_truncate(self.bits())
    }

    /// The kind of the access (read, write, execute), without the flags.
    #[inline]
    pub const fn kind(self) -> Self {
        Self::from_bits_truncate(self.bits() & Permissions::all().bits())
    }

    /// Whether the access writes.
    #[inline]
    pub const fn is_write(self) -> bool {
        self.contains(Self::WRITE)
    }

    /// Whether the access reads in order to execute.
    #[inline]
    pub const fn is_execute(self) -> bool {
        self.contains(Self::EXECUTE)
    }

    /// Whether the access is privileged.
    #[inline]
    pub const fn is_privileged(self) -> bool {
        self.contains(Self::PRIVILEGED)
    }

    /// Whether the access stops at a page that is not present.
    #[inline]
    pub const fn is_present_only(self) -> bool {
        self.contains(Self::PRESENT_ONLY)
    }

    /// The same access, with the flag that stops it at a page that is not present.
    pub const fn present_only(self) -> Self {
        self.union(Self::PRESENT_ONLY)
    }

    /// The same access, for which pages that are not present are resolved.
    pub const fn resolving(self) -> Self {
        self.difference(Self::PRESENT_ONLY)
    }

    /// The same access, made in user mode.
    pub const fn unprivileged(self) -> Self {
        self.difference(Self::PRIVILEGED)
    }

    /// The same access with writing replaced by reading.
    pub const fn reading(self) -> Self {
        if self.is_write() { self.difference(Self::WRITE).union(Self::READ) } else { self }
    }

    /// The same access with its kind replaced by writing.
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
    fn an_access_needs_the_permissions_of_its_kind_and_its_flags_need_none() {
        let all = Access::all();
        assert_eq!(all.needs(), Permissions::all());
        assert!(Permissions::READ.permit(Access::READ | Access::PRIVILEGED | Access::PRESENT_ONLY));
        assert!(!Permissions::READ.permit(Access::EXECUTE));
        assert!(!Permissions::WRITE.permit(Access::ATOMIC));
    }

    #[test]
    fn a_change_of_the_kind_of_an_access_preserves_its_flags() {
        let flags = Access::PRIVILEGED | Access::PRESENT_ONLY;
        assert_eq!((Access::WRITE | flags).reading(), Access::READ | flags);
        assert_eq!((Access::EXECUTE | flags).reading(), Access::EXECUTE | flags);
        assert_eq!((Access::EXECUTE | flags).writing(), Access::WRITE | flags);
    }
}
