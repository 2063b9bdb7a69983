{{- define "m1-serve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: "-attention-worker" and a pod's ordinal must fit behind it. */}}
{{- define "m1-serve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "m1-serve.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "m1-serve.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "m1-serve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "m1-serve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "m1-serve.labels" -}}
{{ include "m1-serve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: m1-serve
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "name" NAME "component" COMPONENT "labels" MAP "annotations" MAP) */}}
{{- define "m1-serve.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "m1-serve.labels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Labels that select the pods of a component: (dict "root" $ "component" COMPONENT) */}}
{{- define "m1-serve.componentSelector" -}}
{{ include "m1-serve.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "m1-serve.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "m1-serve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "image" MAP) */}}
{{- define "m1-serve.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* dns:///, resolved again by whoever calls: (dict "root" $ "component" COMPONENT "port" PORT) */}}
{{- define "m1-serve.address" -}}
{{- printf "dns:///%s-%s.%s.svc.%s:%d" (include "m1-serve.fullname" .root) .component .root.Release.Namespace .root.Values.clusterDomain (int .port) -}}
{{- end -}}

{{/* Which name the routers' certificate must have. */}}
{{- define "m1-serve.tlsServerName" -}}
{{- default (printf "%s-router" (include "m1-serve.fullname" .)) .Values.tls.serverName -}}
{{- end -}}

{{- define "m1-serve.modelDirectory" -}}
{{- if eq .Values.model.source "embedded" -}}
/usr/share/m1/models/tiny
{{- else -}}
/models/{{ .Values.model.name }}
{{- end -}}
{{- end -}}

{{- define "m1-serve.modelClaim" -}}
{{- default (printf "%s-model" (include "m1-serve.fullname" .)) .Values.model.persistentVolumeClaim.existingClaim -}}
{{- end -}}

{{- define "m1-serve.tokenSecret" -}}
{{- default (printf "%s-tokens" (include "m1-serve.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "m1-serve.expertReplicas" -}}
{{- mul (int .Values.expertWorker.shards) (int .Values.expertWorker.copies) -}}
{{- end -}}
