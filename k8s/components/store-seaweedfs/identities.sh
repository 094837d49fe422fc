# Who may do what, for `weed -s3.config`: an administrator, and the user of all Ray Pods, who sees one bucket.
# Keys must be letters, digits, "-" and "_" only: they go into JSON as they are.
umask 077
cat >/identities/s3.json <<EOF
{"identities": [
  {"name": "admin", "actions": ["Admin"],
   "credentials": [{"accessKey": "$ADMIN_ACCESS_KEY_ID", "secretKey": "$ADMIN_SECRET_ACCESS_KEY"}]},
  {"name": "emoji-ldm",
   "actions": ["Read:emoji-ldm", "Write:emoji-ldm", "List:emoji-ldm", "Tagging:emoji-ldm"],
   "credentials": [{"accessKey": "$USER_ACCESS_KEY_ID", "secretKey": "$USER_SECRET_ACCESS_KEY"}]}
]}
EOF
