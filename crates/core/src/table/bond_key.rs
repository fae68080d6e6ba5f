//! The key by which records name a bond.

slotmap::new_key_type! {
    /// The key of a bond: an index with a version of 32 bits. An index is used again with another
    /// version. Keys never leave the process and no message of a device carries one, so 32 bits
    /// suffice. A late message is distinguished from its successors by the generation of its PASID,
    /// which has 64 bits.
    pub(crate) struct BondKey;
}
