//! Response flags: why a response or a connection ended otherwise than the upstream meant it to.
//!
//! Holds the set and its spelling; who sets which flag is the proxy's business.
//! Source: Envoy 1.40 `envoy/stream_info/stream_info.h` (order) and its access-log documentation (names).

/// A set of [`ResponseFlag`]s in the order in which they were set, which is the order Envoy prints them in: as one word, six bits
/// for each, the first lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseFlags(u64);

const BITS: u32 = 6;
/// More flags than a request can have at the same time; what goes beyond is not kept.
const MOST: u32 = u64::BITS / BITS;

macro_rules! flags {
    ($($variant:ident $short:literal $long:literal $doc:literal,)*) => {
        /// One response flag, in Envoy's order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ResponseFlag {
            $(#[doc = $doc] $variant,)*
        }

        impl ResponseFlag {
            /// Every flag, in Envoy's order.
            pub const ALL: &'static [ResponseFlag] = &[$(ResponseFlag::$variant,)*];

            /// The name `%RESPONSE_FLAGS%` and the `response_flags` label use.
            pub const fn short(self) -> &'static str {
                match self { $(ResponseFlag::$variant => $short,)* }
            }

            /// The name `%RESPONSE_FLAGS_LONG%` uses.
            pub const fn long(self) -> &'static str {
                match self { $(ResponseFlag::$variant => $long,)* }
            }
        }
    };
}

flags! {
    FailedLocalHealthCheck "LH" "FailedLocalHealthCheck" "The local service failed its health check.",
    NoHealthyUpstream "UH" "NoHealthyUpstream" "No healthy host in the upstream cluster.",
    UpstreamRequestTimeout "UT" "UpstreamRequestTimeout" "The upstream did not answer within the timeout.",
    LocalReset "LR" "LocalReset" "The proxy reset the connection.",
    UpstreamRemoteReset "UR" "UpstreamRemoteReset" "The upstream reset the stream.",
    UpstreamConnectionFailure "UF" "UpstreamConnectionFailure" "No connection to the upstream could be made.",
    UpstreamConnectionTermination "UC" "UpstreamConnectionTermination" "The upstream closed the connection.",
    UpstreamOverflow "UO" "UpstreamOverflow" "A circuit breaker was open.",
    NoRouteFound "NR" "NoRouteFound" "No route or filter chain matched.",
    DelayInjected "DI" "DelayInjected" "A fault rule delayed the request.",
    FaultInjected "FI" "FaultInjected" "A fault rule aborted the request.",
    RateLimited "RL" "RateLimited" "A rate limit refused the request.",
    UnauthorizedExternalService "UAEX" "UnauthorizedExternalService" "External authorization refused the request.",
    RateLimitServiceError "RLSE" "RateLimitServiceError" "The rate limit service failed.",
    DownstreamConnectionTermination "DC" "DownstreamConnectionTermination" "The client closed the connection.",
    UpstreamRetryLimitExceeded "URX" "UpstreamRetryLimitExceeded" "The retry or connect-attempt limit was reached.",
    StreamIdleTimeout "SI" "StreamIdleTimeout" "The stream was idle for too long.",
    InvalidEnvoyRequestHeaders "IH" "InvalidEnvoyRequestHeaders" "A strictly checked header held an invalid value.",
    DownstreamProtocolError "DPE" "DownstreamProtocolError" "The client broke the protocol.",
    UpstreamMaxStreamDurationReached "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream stream lived too long.",
    ResponseFromCacheFilter "RFCF" "ResponseFromCacheFilter" "A cache answered.",
    NoFilterConfigFound "NFCF" "NoFilterConfigFound" "Filter configuration did not arrive in time.",
    DurationTimeout "DT" "DurationTimeout" "The request or connection exceeded its maximum duration.",
    UpstreamProtocolError "UPE" "UpstreamProtocolError" "The upstream broke the protocol.",
    NoClusterFound "NC" "NoClusterFound" "The route names a cluster that does not exist.",
    OverloadManager "OM" "OverloadManagerTerminated" "Overload protection ended the request.",
    DnsResolutionFailed "DF" "DnsResolutionFailed" "The upstream's name did not resolve.",
    DropOverload "DO" "DropOverload" "The load report policy dropped the request.",
    DownstreamRemoteReset "DR" "DownstreamRemoteReset" "The client reset the stream.",
    UnconditionalDropOverload "UDO" "UnconditionalDropOverload" "The load report policy drops every request.",
}

impl ResponseFlags {
    /// No flag: the response came from the upstream undisturbed.
    pub const NONE: ResponseFlags = ResponseFlags(0);

    /// The set of one flag.
    pub const fn of(flag: ResponseFlag) -> ResponseFlags {
        ResponseFlags(flag as u64 + 1)
    }

    /// This set with `flag` added.
    #[must_use]
    pub const fn with(self, flag: ResponseFlag) -> ResponseFlags {
        let count = self.len();
        if self.contains(flag) || count == MOST {
            return self;
        }
        ResponseFlags(self.0 | ((flag as u64 + 1) << (count * BITS)))
    }

    /// Adds `flag`.
    pub fn insert(&mut self, flag: ResponseFlag) {
        *self = self.with(flag);
    }

    /// Whether `flag` is set.
    pub const fn contains(self, flag: ResponseFlag) -> bool {
        let mut left = self.0;
        while left != 0 {
            if left & ((1 << BITS) - 1) == flag as u64 + 1 {
                return true;
            }
            left >>= BITS;
        }
        false
    }

    const fn len(self) -> u32 {
        (u64::BITS - self.0.leading_zeros()).div_ceil(BITS)
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags that are set, in the order in which they were.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        (0..self.len()).filter_map(move |place| {
            let number = self.0 >> (place * BITS) & ((1 << BITS) - 1);
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            ResponseFlag::ALL.get(index).copied()
        })
    }

    /// Appends the short names joined by commas; nothing for an empty set.
    pub fn write_short(self, out: &mut Vec<u8>) {
        self.write(out, ResponseFlag::short);
    }

    /// Appends the long names joined by commas; nothing for an empty set.
    pub fn write_long(self, out: &mut Vec<u8>) {
        self.write(out, ResponseFlag::long);
    }

    fn write(self, out: &mut Vec<u8>, name: fn(ResponseFlag) -> &'static str) {
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name(flag).as_bytes());
        }
    }
}

impl std::fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short())?;
        }
        Ok(())
    }
}

impl FromIterator<ResponseFlag> for ResponseFlags {
    fn from_iter<I: IntoIterator<Item = ResponseFlag>>(flags: I) -> Self {
        flags
            .into_iter()
            .fold(ResponseFlags::NONE, ResponseFlags::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_set_prints_a_dash() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
    }

    #[test]
    fn flags_print_in_the_order_of_insertion_and_once() {
        let flags: ResponseFlags = [
            ResponseFlag::UpstreamRetryLimitExceeded,
            ResponseFlag::UpstreamConnectionFailure,
            ResponseFlag::UpstreamRetryLimitExceeded,
        ]
        .into_iter()
        .collect();
        assert_eq!(flags.to_string(), "URX,UF");
        let mut long = Vec::new();
        flags.write_long(&mut long);
        assert_eq!(
            long,
            b"UpstreamRetryLimitExceeded,UpstreamConnectionFailure"
        );
    }

    #[test]
    fn every_flag_fits_the_word_and_has_its_own_name() {
        let mut names: Vec<_> = ResponseFlag::ALL.iter().map(|flag| flag.short()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ResponseFlag::ALL.len());
        assert!(ResponseFlag::ALL.len() < 1 << BITS);
        let all: ResponseFlags = ResponseFlag::ALL.iter().copied().collect();
        assert_eq!(all.iter().count(), MOST as usize);
    }
}
