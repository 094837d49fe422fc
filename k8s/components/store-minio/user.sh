# The user of all Ray Pods, who may read and write objects of one bucket but neither drop old versions nor change the
# bucket. The administrator's keys come in MC_HOST_store, the user's in USER_*; run it as often as you like.
set -eu
mc admin policy create store emoji-ldm /etc/store-user/policy.json
# Twice the same name only changes the secret. Keys go by stdin: arguments can be read in /proc.
printf '%s\n%s\n' "$USER_ACCESS_KEY_ID" "$USER_SECRET_ACCESS_KEY" | mc admin user add store
if ! said=$(mc admin policy attach store emoji-ldm --user "$USER_ACCESS_KEY_ID" 2>&1); then
  case "$said" in
    *"already in effect"*) ;;  # mc calls it an error when there is nothing to do: minio/mc#4863
    *) echo "$said" >&2; exit 1 ;;
  esac
fi
echo "user $USER_ACCESS_KEY_ID may read and write bucket emoji-ldm"
