//! Which kernel performs which operation.

use super::operation::Operation;
use super::outcome::Progress;
use super::scratch::Scratch;
use super::{compare, copy, crc, delta};
use crate::job::JobAccess;
use crate::spec::Status;

/// Performs an operation that is neither a no-op nor a batch.
pub(super) fn perform(
    operation: &Operation,
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
) -> Progress {
    match *operation {
        // The engine performs these two without a kernel.
        Operation::NoOp | Operation::Batch { .. } => {
            Progress::failed(0, Status::UNSUPPORTED_OPCODE)
        }
        Operation::Move { source, destination, len } => {
            copy::memory_move(access, scratch, source, destination, len)
        }
        Operation::Dualcast { source, destinations, len } => {
            copy::dualcast(access, scratch, source, destinations, len)
        }
        Operation::CopyCrc { source, destination, len, parameters } => {
            crc::copy(access, scratch, source, destination, len, parameters)
        }
        Operation::Crc { source, len, parameters } => {
            crc::generate(access, scratch, source, len, parameters)
        }
        Operation::Fill { pattern, destination, len } => {
            copy::fill(access, scratch, pattern, destination, len)
        }
        Operation::Compare { first, second, len, expected } => {
            compare::buffers(access, scratch, [first, second], len, expected)
        }
        Operation::ComparePattern { source, pattern, len, expected } => {
            compare::pattern(access, scratch, source, pattern, len, expected)
        }
        Operation::CreateDelta { sources, len, record, max, expected } => {
            let record = delta::RecordBuffer { address: record, len: max };
            delta::create(access, scratch, sources, len, record, expected)
        }
        Operation::ApplyDelta { record, record_len, destination, len } => {
            let record = delta::RecordBuffer { address: record, len: record_len };
            delta::apply(access, scratch, record, destination, len)
        }
    }
}
