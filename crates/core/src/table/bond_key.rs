//! How records name a bond.

slotmap::new_key_type! {
    /// Names a bond: an index that is used again with a version that changes each time. Keys stay
    /// inside the system and nothing that a peer sends names one, so 32 bits of version suffice; a
    /// late message is told from its successor by the PASID's generation of 64 bits.
    pub(crate) struct BondKey;
}
