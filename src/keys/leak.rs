//! Finding keys where they should not be, and what to do then.

use crate::keys::api_keys::ApiKeys;
use crate::keys::error::KeyError;
use crate::keys::format::{KeyId, parse};
use crate::keys::manage::Compromised;
use crate::keys::store::KeyStore;

impl<S: KeyStore> ApiKeys<S> {
    /// A regular expression that finds keys of these prefixes and environments in any
    /// text, for scanners of repositories and logs. What it finds has the form of a key;
    /// [`ApiKeys::recognize`] tells keys from look-alikes.
    ///
    /// ```
    /// use tollgate::ApiKeys;
    /// use tollgate::keys::Peppers;
    ///
    /// let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme").environments(["live", "test"]);
    /// let expected = r"\bacme_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}\b";
    /// assert_eq!(keys.scanner_regex(), expected);
    /// ```
    #[must_use]
    pub fn scanner_regex(&self) -> String {
        let look = &self.shared.look;
        let envs: Vec<_> = look
            .heads
            .iter()
            .map(|head| &head[look.prefix.len()..])
            .collect();
        format!(
            r"\b{}(?:{})_[0-9A-Za-z]{{12}}_[0-9A-Za-z]{{38}}\b",
            look.prefix,
            envs.join("|")
        )
    }

    /// A rule for gitleaks, to be put into its configuration file.
    #[must_use]
    pub fn gitleaks_rule(&self) -> String {
        let prefix = self.shared.look.prefix.trim_end_matches('_');
        let regex = self.scanner_regex();
        format!(
            "[[rules]]\n\
             id = \"{prefix}-api-key\"\n\
             description = \"API key of {prefix}\"\n\
             regex = '''{regex}'''\n\
             entropy = 3\n\
             keywords = [\"{prefix}_\"]\n"
        )
    }

    /// The id of a text that is a key of these prefixes and environments, by its format
    /// and its checksum. Whether there is such a key, only the store knows.
    #[must_use]
    pub fn recognize(&self, text: &str) -> Option<KeyId> {
        let parsed = parse(text.as_bytes()).ok()?;
        let ours = self
            .shared
            .look
            .heads
            .iter()
            .any(|head| head.as_bytes() == parsed.head);
        ours.then_some(parsed.id)
    }

    /// Ends a key that was found where it should not be: see
    /// [`ApiKeys::report_compromised`]. None if the text is no key of ours, or its secret
    /// is wrong: so a report by anybody can be acted on, and ends no key that its sender
    /// does not hold.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`].
    pub async fn report_leaked(&self, text: &str) -> Result<Option<Compromised>, KeyError> {
        let Some(id) = self.recognize(text) else {
            return Ok(None);
        };
        let Some(record) = self.latest(id).await? else {
            return Ok(None);
        };
        let look = &self.shared.look;
        let mac = look.mac_under_pepper_of(&record, text.as_bytes());
        if mac != Some(record.mac) {
            return Ok(None);
        }
        self.report_compromised(id).await.map(Some)
    }
}
