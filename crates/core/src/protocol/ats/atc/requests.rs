//! Translation requests of an ATC: sent, completed, collected.

use smallvec::SmallVec;

use super::{Atc, AtcEntry, PendingRequest, TranslationAnswer, UnknownRequest};
use crate::api::ats::{
    RequestId, Translation, TranslationCompletion, TranslationRefusal, TranslationRequest,
};
use crate::types::access::Access;
use crate::types::ids::Pasid;

impl Atc {
    /// Whether no request can be made before another one has been collected or abandoned.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() >= self.allowed
    }

    /// Makes a request, which the caller sends. Returns the number of pending requests as an error
    /// if there are as many as [are allowed](Self::is_full).
    pub(crate) fn request(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<TranslationRequest, usize> {
        if self.is_full() {
            return Err(self.requests.len());
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let (write, execute) = (access.is_write(), access.is_execute());
        let request = TranslationRequest {
            id,
            pasid,
            address,
            write,
            execute,
            privileged: access.is_privileged(),
        };
        let pending = PendingRequest { request, invalidated: SmallVec::new(), answer: None };
        self.requests.insert(id, pending);
        Ok(request)
    }

    /// Collects the answer to a request, once; `Ok(None)` before its completion has come.
    ///
    /// # Errors
    /// The request is not pending: a reset has removed it, or it was collected or abandoned before.
    pub(crate) fn answer(
        &mut self,
        id: RequestId,
    ) -> Result<Option<TranslationAnswer>, UnknownRequest> {
        let answer = self.requests.get(&id).ok_or(UnknownRequest)?.answer;
        if answer.is_some() {
            self.requests.remove(&id);
        }
        Ok(answer)
    }

    /// Abandons a request: its answer will not be collected.
    pub(crate) fn abandon(&mut self, id: RequestId) {
        self.requests.remove(&id);
    }

    /// Takes a completion (PCIe 6.0, section 10.2.3), and caches its translation unless that was
    /// invalidated since the request was sent. A completion that matches no request in flight is
    /// counted.
    pub(crate) fn complete(&mut self, completion: TranslationCompletion) {
        let Some(pending) = self.requests.get_mut(&completion.id) else {
            self.counts.unexpected += 1;
            return;
        };
        if !pending.is_completed_by(&completion) {
            self.counts.unexpected += 1;
            return;
        }
        let request = pending.request;
        let cacheable = pending.classify(&completion.result);
        // A translation that does not permit the access of the request is cached all the same: it
        // may permit others.
        let permitted =
            |translation: &Translation| translation.permissions.permit(request.access());
        let refuses_access = cacheable == TranslationAnswer::Cached
            && !completion.result.as_ref().is_ok_and(permitted);
        pending.answer = Some(if refuses_access { TranslationAnswer::NoAccess } else { cacheable });
        match (cacheable, completion.result) {
            (TranslationAnswer::Outdated, _) => self.counts.outdated += 1,
            (TranslationAnswer::Cached, Ok(translation)) => {
                if let Some(frame) = translation.frame {
                    self.insert(AtcEntry {
                        pasid: request.pasid,
                        range: translation.range,
                        frame,
                        permissions: translation.permissions,
                        privileged: request.privileged,
                        referenced: true,
                    });
                }
            }
            _ => {}
        }
    }
}

impl PendingRequest {
    /// Whether a completion with the ID of this request is the first one, and names neither another
    /// owner nor another privilege: that would be meant for another request.
    fn is_completed_by(&self, completion: &TranslationCompletion) -> bool {
        self.answer.is_none()
            && completion.privileged == self.request.privileged
            && completion.owner.is_none_or(|owner| self.request.pasid == Some(owner.pasid))
    }

    /// The answer that a completion gives, before the permissions are compared with the access of
    /// the request. `Cached` if the translation is to be cached.
    fn classify(&self, result: &Result<Translation, TranslationRefusal>) -> TranslationAnswer {
        let translation = match result {
            Err(refusal) => return TranslationAnswer::Refused(*refusal),
            Ok(translation) if translation.permissions.is_empty() => {
                return TranslationAnswer::NoAccess;
            }
            Ok(translation) => translation,
        };
        let range = translation.range.range();
        if translation.frame.is_none() {
            TranslationAnswer::Untranslated(translation.permissions)
        } else if self.invalidated.iter().any(|invalidated| invalidated.range().overlaps(range)) {
            TranslationAnswer::Outdated
        } else if !range.contains(self.request.address) {
            // It does not translate the address of the request.
            TranslationAnswer::NoAccess
        } else {
            TranslationAnswer::Cached
        }
    }
}
