{{/* What values.schema.json cannot say: values that contradict each other. Each message says what to set. */}}
{{- define "m1-serve.checks" -}}
{{- $values := .Values -}}
{{- if $values.tls.enabled -}}
{{- range $role, $secret := $values.tls.existingSecrets -}}
{{- if not $secret -}}
{{- fail (printf "tls.enabled is true: set tls.existingSecrets.%s to a Secret with tls.crt, tls.key and ca.crt (deploy/security.md shows how to make one)" $role) -}}
{{- end -}}
{{- end -}}
{{- else if not $values.tls.insecure -}}
{{- fail "tls.enabled is false: give certificates (tls.enabled=true and tls.existingSecrets), or permit ports without TLS with tls.insecure=true" -}}
{{- end -}}
{{- if and $values.auth.enabled (not $values.auth.existingSecret) (not $values.auth.tokens) -}}
{{- fail "auth.enabled is true: set auth.existingSecret, or list name and sha256 of each token in auth.tokens" -}}
{{- end -}}
{{- if and (eq $values.model.source "hostPath") (not $values.model.hostPath.path) -}}
{{- fail "model.source is hostPath: set model.hostPath.path to the checkpoint's directory on every node" -}}
{{- end -}}
{{- $claim := $values.model.persistentVolumeClaim -}}
{{- if eq $values.model.source "persistentVolumeClaim" -}}
{{- if and (not $claim.existingClaim) (not $claim.create) -}}
{{- fail "model.source is persistentVolumeClaim: set model.persistentVolumeClaim.existingClaim, or create=true there" -}}
{{- end -}}
{{- if and $claim.existingClaim $claim.create -}}
{{- fail (printf "model.persistentVolumeClaim: existingClaim is %q and create is true, wanted one of them" $claim.existingClaim) -}}
{{- end -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, above autoscaling.maxReplicas %d" (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and $values.monitoring.podMonitor $values.monitoring.serviceMonitor -}}
{{- fail "monitoring.podMonitor and monitoring.serviceMonitor are both true: every process would be scraped twice, choose one" -}}
{{- end -}}
{{- if and $values.auth.enabled $values.helmTest.enabled (not $values.helmTest.tokenSecret) -}}
{{- fail "auth.enabled is true: helm test needs a token; set helmTest.tokenSecret (key `token`), or helmTest.enabled=false" -}}
{{- end -}}
{{- range $role := list "router" "attentionWorker" "expertWorker" -}}
{{- range $arg := (index $values $role).extraArgs -}}
{{- $flag := regexReplaceAll "^--?([a-z_]+).*$" $arg "${1}" -}}
{{- if has $flag (list "address" "port" "model" "attention_workers" "expert_workers" "experts" "shard" "metrics_port" "metrics_address" "drain_timeout" "token_file" "tls_cert" "tls_key" "tls_ca" "insecure" "flagfile" "log_level") -}}
{{- fail (printf "%s.extraArgs has %q: the chart sets --%s itself, from its own values" $role $arg $flag) -}}
{{- end -}}
{{- if hasKey (index $values $role).config $flag -}}
{{- fail (printf "%s.extraArgs has %q: %s.config.%s says the same, keep one" $role $arg $role $flag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $role := list "attentionWorker" "expertWorker" -}}
{{- if and (eq (toString (index $values $role).config.device) "cuda") (not (index $values $role).gpus) -}}
{{- fail (printf "%s.config.device is cuda: set %s.gpus to 1, or its pods are given no GPU" $role $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
