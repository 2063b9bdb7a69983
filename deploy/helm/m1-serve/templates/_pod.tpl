{{/* The pod of a component: (dict "root" $ "key" KEY "component" COMPONENT) */}}
{{- define "m1-serve.podTemplate" -}}
{{- $root := .root -}}
{{- $v := index $root.Values .key -}}
metadata:
  # No version of the chart here: a pod restarts, and loads its weights again, only when something of its own changes.
  labels:
    {{- include "m1-serve.componentSelector" . | nindent 4 }}
    {{- with merge (dict) $v.podLabels $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ toYaml $v.config | sha256sum }}
    {{- with $v.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "m1-serve.serviceAccountName" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # What the load balancer needs to forget the pod, what running work needs, and a margin.
  terminationGracePeriodSeconds: {{ add (int $v.preStopSeconds) (int $v.drainSeconds) (int $v.graceMarginSeconds) }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if and (ne .component "router") (ne $root.Values.model.source "embedded") }}
  initContainers:
    {{- include "m1-serve.modelCheck" . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "m1-serve.image" (dict "root" $root "image" $v.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        {{- include "m1-serve.args" . | nindent 8 }}
      env:
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        # Whole cores, rounded up; all of the node's without a limit.
        - name: CPU_LIMIT
          valueFrom:
            resourceFieldRef:
              containerName: {{ .component }}
              resource: limits.cpu
              divisor: "1"
        {{- with $v.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: grpc
          containerPort: {{ $v.port }}
        - name: metrics
          containerPort: {{ $root.Values.metricsPort }}
      {{- include "m1-serve.probes" . | nindent 6 }}
      {{- if $v.preStopSeconds }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ $v.preStopSeconds | quote }}]
      {{- end }}
      resources:
        {{- include "m1-serve.resources" . | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - name: flags
          mountPath: /etc/m1/flags
          readOnly: true
        - name: tmp
          mountPath: /tmp
        {{- with include "m1-serve.modelMount" $root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if $root.Values.tls.enabled }}
        - name: tls
          mountPath: /etc/m1/tls
          readOnly: true
        {{- end }}
        {{- if and (eq .component "router") $root.Values.auth.enabled }}
        - name: tokens
          mountPath: /etc/m1/tokens
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "m1-serve.volumes" . | nindent 4 }}
  {{- with include "m1-serve.scheduling" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Startup: the model is loaded. Liveness: the process answers, and its loops make progress. Readiness: a request could be answered. Plain HTTP:
     the kubelet's gRPC probe speaks no TLS. */}}
{{- define "m1-serve.probes" -}}
{{- $v := index .root.Values .key -}}
startupProbe:
  httpGet: {path: /startupz, port: metrics}
  periodSeconds: {{ $v.probes.startup.periodSeconds }}
  failureThreshold: {{ $v.probes.startup.failureThreshold }}
  timeoutSeconds: 2
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: {{ $v.probes.readiness.periodSeconds }}
  failureThreshold: {{ $v.probes.readiness.failureThreshold }}
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: {{ $v.probes.liveness.periodSeconds }}
  failureThreshold: {{ $v.probes.liveness.failureThreshold }}
  timeoutSeconds: 5
  terminationGracePeriodSeconds: {{ $v.probes.liveness.terminationGracePeriodSeconds }}
{{- end -}}

{{- define "m1-serve.resources" -}}
{{- $v := index .root.Values .key -}}
{{- $resources := deepCopy $v.resources -}}
{{- if $v.gpus -}}
{{- $limits := merge (dict .root.Values.gpuResourceName (int $v.gpus)) ($resources.limits | default dict) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Ends with 3, and the pod waits, while the volume holds other weights than the release wants. */}}
{{- define "m1-serve.modelCheck" -}}
{{- $root := .root -}}
- name: check-model
  image: {{ include "m1-serve.image" (dict "root" $root "image" $root.Values.cli.image) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    - checkpoint
    - fingerprint
    - --model={{ include "m1-serve.modelDirectory" $root }}
    {{- with $root.Values.model.fingerprint }}
    - --expect={{ . }}
    {{- end }}
  resources:
    {{- toYaml $root.Values.cli.resources | nindent 4 }}
  securityContext:
    {{- toYaml $root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    {{- include "m1-serve.modelMount" $root | nindent 4 }}
{{- end -}}

{{- define "m1-serve.modelMount" -}}
{{- if ne .Values.model.source "embedded" -}}
- name: model
  mountPath: {{ include "m1-serve.modelDirectory" . }}
  readOnly: true
  {{- if and (eq .Values.model.source "persistentVolumeClaim") .Values.model.persistentVolumeClaim.subPath }}
  subPath: {{ .Values.model.persistentVolumeClaim.subPath }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "m1-serve.volumes" -}}
{{- $root := .root -}}
{{- $v := index $root.Values .key -}}
- name: flags
  configMap:
    name: {{ include "m1-serve.fullname" $root }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if ne $root.Values.model.source "embedded" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ include "m1-serve.modelClaim" $root }}
    readOnly: true
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ index $root.Values.tls.existingSecrets .key }}
    defaultMode: 0440
{{- end }}
{{- if and (eq .component "router") $root.Values.auth.enabled }}
- name: tokens
  secret:
    secretName: {{ include "m1-serve.tokenSecret" $root }}
    defaultMode: 0440
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "m1-serve.scheduling" -}}
{{- $root := .root -}}
{{- $v := index $root.Values .key -}}
{{- $zone := $root.Values.workersInOneZone -}}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $v.affinity }}
affinity:
  {{- toYaml $v.affinity | nindent 2 }}
{{- else if and (ne .component "router") (ne $zone "none") }}
affinity:
  podAffinity:
    {{- if eq $zone "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - {{- include "m1-serve.workerTerm" $root | nindent 8 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          {{- include "m1-serve.workerTerm" $root | nindent 10 }}
    {{- end }}
{{- end }}
{{- if or $v.spread.enabled $v.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- if $v.spread.enabled }}
  - maxSkew: 1
    topologyKey: {{ $v.spread.topologyKey }}
    whenUnsatisfiable: {{ $v.spread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "m1-serve.componentSelector" . | nindent 8 }}
  {{- end }}
  {{- with $v.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "m1-serve.workerTerm" -}}
topologyKey: topology.kubernetes.io/zone
labelSelector:
  matchLabels:
    {{- include "m1-serve.selectorLabels" . | nindent 4 }}
  matchExpressions:
    - key: app.kubernetes.io/component
      operator: In
      values: [attention-worker, expert-worker]
{{- end -}}
