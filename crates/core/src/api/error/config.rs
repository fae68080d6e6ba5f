//! Errors of settings.

/// A setting of an [`IommuConfig`](crate::IommuConfig) is out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the setting `{setting}` is {value}; it must be {least} to {most}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The name of the field.
    pub setting: &'static str,
    /// Its value.
    pub value: u64,
    /// The least value that is accepted.
    pub least: u64,
    /// The greatest value that is accepted.
    pub most: u64,
}

/// Checks one setting.
pub(crate) fn in_bounds(
    setting: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError { setting, value, least, most })
    }
}
