//! A real machine's PCI topology: functions, buses, and what is known of its IOMMUs.
//!
//! A [`Machine`] is immutable. A reader fills a [`Reading`], from which `infer` makes the machine;
//! every value that a decision rests on says how it is known ([`Fact`]). A dump may contradict
//! itself: links that cannot be (a bridge whose secondary bus is not above its own, a bus with two
//! bridges) are left out and listed in [`Machine::anomalies`]. So parents are always on lower
//! buses, and every walk up ends.
//!
//! Uses `acs` only.
//!
//! | module | what it holds |
//! |---|---|
//! | `ids` | vendor, device and class numbers |
//! | `fact` | a value with its source |
//! | `function`, `host` | what is known of one function; of the kernel and the IOMMUs |
//! | `hierarchy`, `anomaly` | functions linked to buses; what was left out |
//! | `reading`, `json`, `limit` | what a reader found, its form in JSON, and its bounds |

mod anomaly;
mod fact;
mod function;
mod hierarchy;
mod host;
mod ids;
mod json;
pub mod limit;
mod reading;

pub use anomaly::Anomaly;
pub use fact::{Basis, Fact, Source};
pub use function::{
    AcsCapability, Ats, Bar, Bridge, Express, ExpressKind, Header, Pasid, PciFunction, Pri,
};
pub use hierarchy::{Bus, Machine};
pub use host::{Host, IommuKind, IommuUnit};
pub(crate) use ids::hex_word;
pub use ids::{BadClass, BadIds, Class, Ids};
pub use json::Hex;
pub use reading::{
    AcsReading, AtsReading, BarReading, Buses, ExpressReading, FunctionReading, HeaderReading,
    HostReading, IommuReading, ListState, PasidReading, PriReading, Reading, SriovReading,
};
