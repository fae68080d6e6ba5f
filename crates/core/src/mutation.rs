//! Defects of others, put back in on purpose: `cargo xtask mutate` shows that a test finds each
//! (docs/regressions.md).
//!
//! Only under `--cfg sva_mutate` is there anything to switch; without it every question is answered
//! `false` at compile time.

/// Whether the defect with this number is put back in, by the variable `SVA_MUTATE`.
#[cfg(sva_mutate)]
pub fn is_on(number: u8) -> bool {
    use std::sync::OnceLock;
    static ON: OnceLock<Option<u8>> = OnceLock::new();
    *ON.get_or_init(|| std::env::var("SVA_MUTATE").ok().and_then(|text| text.parse().ok()))
        == Some(number)
}

/// Whether the defect with this number is put back in: never in this build.
#[cfg(not(sva_mutate))]
#[inline(always)]
pub const fn is_on(number: u8) -> bool {
    let _ = number;
    false
}
