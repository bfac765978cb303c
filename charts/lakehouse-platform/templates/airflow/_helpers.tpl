{{- define "airflow.secret" -}}
{{ .Values.airflow.existingSecret | default "airflow" }}
{{- end }}

{{- define "airflow.image" -}}
{{ include "platform.image" (dict "root" . "image" .Values.airflow.image) }}
{{- end }}

{{/* Where tasks and triggers reach the API server. */}}
{{- define "airflow.url" -}}
http://airflow.{{ .Release.Namespace }}.svc:8080
{{- end }}

{{/*
Connections, as Airflow reads them from the environment. Kubernetes puts the values of Secrets in place of $(…), so that neither a pod's
spec nor a second Secret holds them.
*/}}
{{- define "airflow.awsConnection" -}}
{{ dict "conn_type" "aws" "login" "$(STORE_ACCESS_KEY_ID)" "password" "$(STORE_SECRET_ACCESS_KEY)"
  "extra" (dict "endpoint_url" (printf "http://minio.%s.svc:9000" .Release.Namespace) "region_name" .Values.buckets.region
    "config_kwargs" (dict "s3" (dict "addressing_style" "path"))) | toJson }}
{{- end }}

{{/* The XCom sidecar of KubernetesPodOperator runs from Airflow's own image, which the nodes hold already, within Pod Security "restricted". */}}
{{- define "airflow.kubernetesConnection" -}}
{{- $security := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true "runAsUser" 50000
  "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- $resources := dict "requests" (dict "cpu" "1m" "memory" "16Mi") "limits" (dict "memory" "64Mi") }}
{{- dict "conn_type" "kubernetes" "extra" (dict "in_cluster" true "namespace" .Release.Namespace
  "xcom_sidecar_container_image" (include "airflow.image" .)
  "xcom_sidecar_container_resources" (toJson $resources)
  "xcom_sidecar_container_security_context" (toJson $security)) | toJson }}
{{- end }}

{{/* Environment of every container that is Airflow. */}}
{{- define "airflow.env" -}}
{{- $airflow := .Values.airflow }}
{{- $secret := include "airflow.secret" . }}
- name: DATABASE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: database-password}}
- name: STORE_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ include "platform.minioSecret" . }}, key: access-key-id}}
- name: STORE_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "platform.minioSecret" . }}, key: secret-access-key}}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
  value: {{ printf "postgresql+psycopg2://%s:$(DATABASE_PASSWORD)@postgres.%s.svc:5432/%s" $airflow.database .Release.Namespace $airflow.database }}
- name: AIRFLOW__CORE__FERNET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: fernet-key}}
- name: AIRFLOW__API_AUTH__JWT_SECRET
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: jwt-secret}}
- name: AIRFLOW__API__SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: api-secret-key}}
- {name: AIRFLOW__API_AUTH__JWT_ISSUER, value: {{ printf "%s/airflow" .Release.Namespace }}}
- {name: AIRFLOW__CORE__EXECUTION_API_SERVER_URL, value: {{ include "airflow.url" . }}/execution/}
- {name: AIRFLOW__CORE__EXECUTOR, value: {{ $airflow.executor }}}
- {name: AIRFLOW__CORE__DAGS_FOLDER, value: /opt/airflow/dags}
- {name: AIRFLOW__CORE__LOAD_EXAMPLES, value: "False"}
# a pod's name is no DNS name: running tasks' logs are fetched by address
- {name: AIRFLOW__CORE__HOSTNAME_CALLABLE, value: airflow.utils.net.get_host_ip_address}
- {name: AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS, value: {{ printf "%s:admin" $airflow.username }}}
- {name: AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE, value: /opt/airflow/passwords.json}
- {name: AIRFLOW__LOGGING__REMOTE_LOGGING, value: "True"}
- {name: AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID, value: aws_default}
- {name: AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER, value: {{ printf "s3://%s" $airflow.logsBucket }}}
- {name: AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK, value: "True"}
{{- with $airflow.baseUrl }}
- {name: AIRFLOW__API__BASE_URL, value: {{ . }}}
{{- end }}
{{- if eq $airflow.executor "KubernetesExecutor" }}
- {name: AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE, value: {{ .Release.Namespace }}}
- {name: AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE, value: /etc/airflow/worker.yaml}
{{- end }}
{{- range $section, $options := $airflow.config }}
{{- range $option, $value := $options }}
- {name: {{ printf "AIRFLOW__%s__%s" ($section | upper | replace "." "_") (upper $option) }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
- name: AIRFLOW_CONN_AWS_DEFAULT
  value: {{ include "airflow.awsConnection" . | squote }}
- name: AIRFLOW_CONN_KUBERNETES_DEFAULT
  value: {{ include "airflow.kubernetesConnection" . | squote }}
# what the DAGs of this project ask for
- {name: LAKEHOUSE_NAMESPACE, value: {{ .Release.Namespace }}}
- {name: AIRFLOW_VAR_LAKEHOUSE_CLI_IMAGE, value: {{ include "platform.image" (dict "root" . "image" .Values.buckets.image) }}}
{{- with $airflow.consoleUrl }}
- {name: AIRFLOW_VAR_LAKEHOUSE_CONSOLE_URL, value: {{ . }}}
{{- end }}
{{- range $name, $value := $airflow.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Image, environment and mounts of every container that is Airflow. Call with (dict "root" $ "env" "- name: …"), `env` only where there is more. */}}
{{- define "airflow.container" -}}
image: {{ include "airflow.image" .root }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
env:
  {{- include "airflow.env" .root | nindent 2 }}
  {{- with .env }}
  {{- . | nindent 2 }}
  {{- end }}
{{- with .root.Values.airflow.envSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
securityContext:
  {{- include "platform.containerSecurity" .root | nindent 2 }}
volumeMounts:
  # Airflow writes its configuration, logs and the processes' state under its home
  - {name: home, mountPath: /opt/airflow}
  - {name: tmp, mountPath: /tmp}
  - {name: dags, mountPath: /opt/airflow/dags, readOnly: true}
  {{- if eq .root.Values.airflow.executor "KubernetesExecutor" }}
  - {name: worker, mountPath: /etc/airflow, readOnly: true}
  {{- end }}
{{- end }}

{{- define "airflow.volumes" -}}
- name: home
  emptyDir: {sizeLimit: 1Gi}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: dags
  {{- if .Values.airflow.dags.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.airflow.dags.existingClaim }}, readOnly: true}
  {{- else if .Values.airflow.dags.hostPath }}
  hostPath: {path: {{ .Values.airflow.dags.hostPath }}, type: Directory}
  {{- else }}
  configMap:
    name: airflow-dags
    items:
      {{- include "airflow.dagItems" . | nindent 6 }}
  {{- end }}
{{- if eq .Values.airflow.executor "KubernetesExecutor" }}
- name: worker
  configMap: {name: airflow-worker}
{{- end }}
{{- end }}

{{/* A ConfigMap's keys have no slash: which key is which file. */}}
{{- define "airflow.dagItems" -}}
- {key: .airflowignore, path: .airflowignore}
{{- range $path, $_ := .Files.Glob "files/dags/**.py" }}
{{- $file := trimPrefix "files/dags/" $path }}
- {key: {{ $file | replace "/" "--" }}, path: {{ $file }}}
{{- end }}
{{- end }}

{{/*
A Deployment of one pod. Call with (dict "root" $ "component" "scheduler" "values" .Values.airflow.scheduler
"token" true "container" "args: …")): `token` says whether the pod talks to the Kubernetes API, `container` is the rest of its container.
*/}}
{{- define "airflow.deployment" -}}
{{- $name := dict "root" .root "component" (printf "airflow-%s" .component) }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: airflow-{{ .component }}
  labels:
    {{- include "platform.labels" $name | nindent 4 }}
spec:
  replicas: 1
  # two at once would be right too, but need the memory of both
  strategy: {type: Recreate}
  selector:
    matchLabels:
      {{- include "platform.selector" $name | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "platform.labels" $name | nindent 8 }}
      {{- with .annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "platform.everyPod" .root | nindent 6 }}
      serviceAccountName: airflow
      automountServiceAccountToken: {{ .token }}
      terminationGracePeriodSeconds: 30
      securityContext:
        {{- include "platform.podSecurity" 50000 | nindent 8 }}
      initContainers:
        {{- .init | default (include "airflow.waitForTables" .root) | nindent 8 }}
      containers:
        - name: {{ .component }}
          {{- include "airflow.container" . | nindent 10 }}
          {{- .container | nindent 10 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
      volumes:
        {{- include "airflow.volumes" .root | nindent 8 }}
{{- end }}

{{/* The api-server's pod makes the tables; the others wait for the version that their Airflow wants. */}}
{{- define "airflow.waitForTables" -}}
- name: tables
  {{- include "airflow.container" (dict "root" .) | nindent 2 }}
  args: [airflow, db, check-migrations, --migration-wait-timeout=300]
  resources:
    {{- toYaml .Values.airflow.init.resources | nindent 4 }}
{{- end }}
