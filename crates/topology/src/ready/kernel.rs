//! The running kernel: its release and its command line.

use super::check::Check;
use super::finding::{DisablingOption, Finding};
use super::gate::Gate;
use crate::machine::{Host, IommuKind, Source};

/// The first kernel with shared virtual addressing for AMD-Vi.
const AMD_SINCE: (u32, u32) = (6, 10);
/// The first kernel that has the fix for which stable updates of older ones switch shared virtual
/// addressing off on x86.
const X86_FIXED_SINCE: (u32, u32) = (6, 19);
/// The first kernel that takes groups with members that have no PASID capability.
const MIXED_GROUPS_SINCE: (u32, u32) = (6, 16);

/// The first kernel that asks for ACS on the path before it enables PASIDs.
const PATH_SINCE: (u32, u32) = (6, 2);

/// The release of a kernel that is known not to ask for ACS on the path.
pub(super) fn ignores_acs_of_path(host: &Host) -> Option<(u32, u32)> {
    release(host).filter(|release| *release < PATH_SINCE)
}

/// The gate [`Gate::Kernel`], where the source names a kernel and the IOMMU is known.
pub(super) fn check(host: &Host, kind: Option<IommuKind>) -> Option<Check> {
    let release = release(host)?;
    let finding = match kind? {
        IommuKind::AmdVi if release < AMD_SINCE => {
            Finding::KernelTooOld { release, needs: AMD_SINCE }
        }
        IommuKind::AmdVi | IommuKind::VtD if release < X86_FIXED_SINCE => {
            Finding::KernelPerhapsOff { release }
        }
        _ => Finding::Kernel { release },
    };
    Some(Check { gate: Gate::Kernel, finding, source: Source::Read })
}

/// Whether the kernel is known to refuse groups with members that have no PASID capability.
pub(super) fn refuses_mixed_groups(host: &Host) -> bool {
    release(host).is_some_and(|release| release < MIXED_GROUPS_SINCE)
}

/// The option on the kernel's command line that says `word`, alone or among others:
/// `intel_iommu=on,sm_off`.
pub(super) fn disabling_option(
    host: &Host,
    option: &'static str,
    word: &'static str,
) -> Option<DisablingOption> {
    let says = |text: &String| {
        text.split_once('=').is_some_and(|(name, value)| {
            name == option && value.split(',').any(|part| part == word)
        })
    };
    host.options.as_ref()?.iter().any(says).then_some(DisablingOption { option, word })
}

/// Major and minor number of the release, such as (6, 18).
fn release(host: &Host) -> Option<(u32, u32)> {
    let mut parts = host.kernel.as_deref()?.split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse().ok());
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kernel: &str) -> Host {
        Host { kernel: Some(kernel.to_owned()), ..Host::default() }
    }

    // shows S2
    #[test]
    fn releases_are_read_as_far_as_they_are_numbers() {
        for (text, expected) in [
            ("6.18.44-fc", Some((6, 18))),
            ("7.3-rc1", Some((7, 3))),
            ("6", None),
            ("", None),
            ("six.one", None),
            ("99999999999999.1", None),
            ("6.-1", None),
        ] {
            assert_eq!(release(&host(text)), expected, "{text}");
        }
    }

    #[test]
    fn an_option_blocks_only_by_a_whole_word_of_its_own_value() {
        let with =
            |option: &str| Host { options: Some(vec![option.to_owned()]), ..Host::default() };
        let found = |option| disabling_option(&with(option), "intel_iommu", "off").is_some();
        assert!(found("intel_iommu=off") && found("intel_iommu=igfx_off,off"));
        assert!(
            !found("intel_iommu=igfx_off")
                && !found("intel_iommu=on,sm_off")
                && !found("amd_iommu=off")
                && !found("intel_iommu")
        );
    }

    #[test]
    fn old_kernels_are_told_from_those_that_may_have_it_switched_off() {
        let finding = |release, kind| check(&host(release), Some(kind)).map(|check| check.finding);
        assert_eq!(
            finding("6.9.1", IommuKind::AmdVi),
            Some(Finding::KernelTooOld { release: (6, 9), needs: (6, 10) })
        );
        assert_eq!(
            finding("6.12.1", IommuKind::AmdVi),
            Some(Finding::KernelPerhapsOff { release: (6, 12) })
        );
        assert_eq!(
            finding("6.12.1", IommuKind::SmmuV3),
            Some(Finding::Kernel { release: (6, 12) })
        );
        assert_eq!(finding("6.19.0", IommuKind::VtD), Some(Finding::Kernel { release: (6, 19) }));
        assert_eq!(check(&Host::default(), Some(IommuKind::VtD)), None);
    }
}
