//! Controllers that make pods.

use std::collections::BTreeMap;

use super::PodTemplateSpec;
use crate::meta::ObjectMeta;
use crate::schema::object;
use crate::value::Value;

object! {
    /// `metav1.LabelSelector`. Empty selects everything; see [`crate::labels`] for matching.
    pub struct LabelSelector {
        match_labels: BTreeMap<String, String>,
        match_expressions: Vec<LabelSelectorRequirement>,
    }
}

object! {
    /// `metav1.LabelSelectorRequirement`.
    pub struct LabelSelectorRequirement {
        key: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: String,
        values: Vec<String>,
    }
}

object! {
    /// `apps/v1.Deployment`.
    pub struct Deployment {
        spec: DeploymentSpec,
        status: Option<Value>,
    }
}

object! {
    /// `apps/v1.DeploymentSpec`.
    pub struct DeploymentSpec {
        replicas: Option<u32>,
        selector: LabelSelector,
        template: PodTemplateSpec,
        strategy: Option<Value>,
        min_ready_seconds: i32,
        revision_history_limit: Option<i32>,
        paused: bool,
        progress_deadline_seconds: Option<i32>,
    }
}

object! {
    /// `apps/v1.StatefulSet`.
    pub struct StatefulSet {
        spec: StatefulSetSpec,
        status: Option<Value>,
    }
}

object! {
    /// `apps/v1.StatefulSetSpec`.
    pub struct StatefulSetSpec {
        replicas: Option<u32>,
        selector: LabelSelector,
        template: PodTemplateSpec,
        service_name: String,
        volume_claim_templates: Option<Value>,
        pod_management_policy: String,
        update_strategy: Option<Value>,
        revision_history_limit: Option<i32>,
        min_ready_seconds: i32,
        persistent_volume_claim_retention_policy: Option<Value>,
        ordinals: Option<StatefulSetOrdinals>,
    }
}

object! {
    /// `apps/v1.StatefulSetOrdinals`.
    pub struct StatefulSetOrdinals {
        start: u32,
    }
}

object! {
    /// `apps/v1.DaemonSet`.
    pub struct DaemonSet {
        spec: DaemonSetSpec,
        status: Option<Value>,
    }
}

object! {
    /// `apps/v1.DaemonSetSpec`.
    pub struct DaemonSetSpec {
        selector: LabelSelector,
        template: PodTemplateSpec,
        update_strategy: Option<Value>,
        min_ready_seconds: i32,
        revision_history_limit: Option<i32>,
    }
}

object! {
    /// `apps/v1.ReplicaSet`.
    pub struct ReplicaSet {
        spec: ReplicaSetSpec,
        status: Option<Value>,
    }
}

object! {
    /// `apps/v1.ReplicaSetSpec`.
    pub struct ReplicaSetSpec {
        replicas: Option<u32>,
        min_ready_seconds: i32,
        selector: LabelSelector,
        template: PodTemplateSpec,
    }
}

object! {
    /// `batch/v1.Job`.
    pub struct Job {
        spec: JobSpec,
        status: Option<Value>,
    }
}

object! {
    /// `batch/v1.JobSpec`.
    pub struct JobSpec {
        parallelism: Option<u32>,
        completions: Option<u32>,
        active_deadline_seconds: Option<i64>,
        pod_failure_policy: Option<Value>,
        success_policy: Option<Value>,
        backoff_limit: Option<u32>,
        backoff_limit_per_index: Option<u32>,
        max_failed_indexes: Option<u32>,
        selector: Option<LabelSelector>,
        manual_selector: Option<bool>,
        template: PodTemplateSpec,
        ttl_seconds_after_finished: Option<i32>,
        completion_mode: String,
        suspend: Option<bool>,
        pod_replacement_policy: String,
        managed_by: String,
    }
}

object! {
    /// `batch/v1.CronJob`.
    pub struct CronJob {
        spec: CronJobSpec,
        status: Option<Value>,
    }
}

object! {
    /// `batch/v1.CronJobSpec`.
    pub struct CronJobSpec {
        schedule: String,
        time_zone: String,
        starting_deadline_seconds: Option<i64>,
        concurrency_policy: String,
        suspend: Option<bool>,
        job_template: JobTemplateSpec,
        successful_jobs_history_limit: Option<i32>,
        failed_jobs_history_limit: Option<i32>,
    }
}

object! {
    /// `batch/v1.JobTemplateSpec`.
    pub struct JobTemplateSpec {
        metadata: ObjectMeta,
        spec: JobSpec,
    }
}
