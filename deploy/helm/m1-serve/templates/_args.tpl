{{/* Flags of a server that the chart sets; tuning flags come from the ConfigMap, before them.
     (dict "root" $ "key" KEY "component" COMPONENT) */}}
{{- define "m1-serve.args" -}}
{{- $root := .root -}}
{{- $v := index $root.Values .key -}}
- --flagfile=/etc/m1/flags/{{ .component }}.flags
- {{ printf "--address=%s" $root.Values.listenAddress | quote }}
- --port={{ $v.port }}
- --model={{ include "m1-serve.modelDirectory" $root }}
{{- if eq .component "router" }}
- --attention_workers={{ include "m1-serve.address" (dict "root" $root "component" "attention-worker" "port" $root.Values.attentionWorker.port) }}
{{- else if eq .component "attention-worker" }}
- --expert_workers={{ include "m1-serve.address" (dict "root" $root "component" "expert-worker" "port" $root.Values.expertWorker.port) }}
{{- else }}
- --shard=$(POD_NAME)/{{ $root.Values.expertWorker.shards }}
- --shared_memory=false
{{- end }}
{{- if ne .component "expert-worker" }}
- --drain_timeout={{ $v.drainSeconds }}s
{{- end }}
{{- if and (ne .component "router") (not (hasKey $v.config "threads")) }}
- --threads=$(CPU_LIMIT)
{{- end }}
- --metrics_port={{ $root.Values.metricsPort }}
- --log_level={{ $root.Values.logLevel }}
{{- if $root.Values.tls.enabled }}
- --tls_cert=/etc/m1/tls/tls.crt
- --tls_key=/etc/m1/tls/tls.key
- --tls_ca=/etc/m1/tls/ca.crt
{{- else }}
- --insecure
{{- end }}
{{- if and (eq .component "router") $root.Values.auth.enabled }}
- --token_file=/etc/m1/tokens/tokens
{{- end }}
{{- range $v.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}
