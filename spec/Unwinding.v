(* The unwinding theorem: what the prover shows of one step of the kernel holds for runs of any length.

   Checked without axioms by Coq (`make coq`; Debian's package is called coq). Source of the idea: Rushby,
   "Noninterference, transitivity, and channel-control security policies", SRI CSL-92-02, 1992.

   Each hypothesis, and the obligation of spec/prover that discharges it for the policy in force:

   alike_sym, alike_trans      `alike` of world.py is a conjunction of equalities, and of "both visible or both
                               not"; tests/policy/test_prover.py checks both laws.
   visible_alike               the conjunct "whether the observer may see the guest" of `alike`.
   visible_program             a guest's next call depends on its code and on what it has read. Where the
                               observer may see the guest, "step consistency" shows that all it has read, and
                               each reply, were equal; its code is the observer's own. It never held more
                               before: "invariant", goal "the guest's label only grows". Here: `next_call`.
   step_consistent             "step consistency": calls and traps of a guest that the observer may see.
   local_respect               "local respect": calls and traps of one that it may not see.
   call_silent                 "invariant", goal "nothing leaves before the tick".
   tick_consistent, tick_same  "tick consistency", whose hypothesis is that the declared releases to this
                               observer are equal: those to others may not show. "declared source" shows
                               that such a release depends on nothing but the secrets of its `from`.

   Trusted values that later ticks bring are part of the state here; `alike` leaves them open.
   A trap, or running out of fuel or time, is a call here: the kernel's action Fault. The invariant, which the
   obligations "invariant" keep, is part of every state, and so is what stops a job (the action Stop), which
   does not depend on secrets: its reasons are the parties' and the platform's own doings.
   Caps need no theorem: they are a bound in every reachable state ("leak cap"), and the ledger's is kept by
   each charge ("invariant", goals on the ledger). *)

Require Import List.
Import ListNotations.

Section Unwinding.

Variables State Action Output Release : Type.

Variable call : State -> Action -> State.
Variable call_output : State -> Action -> list Output.
Variable tick : State -> State.
Variable tick_output : State -> list Output.
Variable released : State -> list Release.        (* values of the declared releases to the observer *)
Variable next_call : State -> option Action.      (* what the guest, any program, does next; None: it waits *)
Variable visible : State -> Prop.                 (* the guest's label is within the observer's clearance *)
Variable alike : State -> State -> Prop.

Hypothesis visible_dec : forall s, visible s \/ ~ visible s.
Hypothesis alike_sym : forall s t, alike s t -> alike t s.
Hypothesis alike_trans : forall s t u, alike s t -> alike t u -> alike s u.
Hypothesis visible_alike : forall s t, alike s t -> visible s -> visible t.
Hypothesis visible_program : forall s t, alike s t -> visible s -> next_call s = next_call t.
Hypothesis step_consistent : forall s t a, alike s t -> visible s -> alike (call s a) (call t a).
Hypothesis local_respect : forall s a, ~ visible s -> alike s s -> alike (call s a) s.
Hypothesis call_silent : forall s a, call_output s a = [].
Hypothesis tick_consistent : forall s t, alike s t -> released s = released t -> alike (tick s) (tick t).
Hypothesis tick_same : forall s t, alike s t -> released s = released t -> tick_output s = tick_output t.

(* One slot: the guest makes at most `fuel` calls; then the clock ticks, whatever the guest did. *)
Fixpoint slot (fuel : nat) (s : State) : State :=
  match fuel with
  | O => s
  | S rest => match next_call s with None => s | Some a => slot rest (call s a) end
  end.

Fixpoint slot_output (fuel : nat) (s : State) : list Output :=
  match fuel with
  | O => []
  | S rest => match next_call s with
              | None => []
              | Some a => call_output s a ++ slot_output rest (call s a)
              end
  end.

(* What the observer sees of a whole run of `slots` slots, and what the declared releases are in it. *)
Fixpoint observed (slots fuel : nat) (s : State) : list Output :=
  match slots with
  | O => []
  | S rest => let s' := slot fuel s in
              slot_output fuel s ++ tick_output s' ++ observed rest fuel (tick s')
  end.

Fixpoint all_released (slots fuel : nat) (s : State) : list (list Release) :=
  match slots with
  | O => []
  | S rest => let s' := slot fuel s in released s' :: all_released rest fuel (tick s')
  end.

Lemma slot_is_silent : forall fuel s, slot_output fuel s = [].
Proof.
  induction fuel as [|rest IH]; simpl; intros s; [reflexivity|].
  destruct (next_call s) as [a|]; [|reflexivity].
  rewrite call_silent, IH. reflexivity.
Qed.

Lemma alike_self : forall s t, alike s t -> alike s s.
Proof. intros s t H. exact (alike_trans s t s H (alike_sym s t H)). Qed.

(* A guest that the observer may not see does a whole slot's work without changing what is alike. *)
Lemma hidden_slot : forall fuel s t, alike s t -> ~ visible s -> alike (slot fuel s) t.
Proof.
  induction fuel as [|rest IH]; simpl; intros s t H hidden; [exact H|].
  destruct (next_call s) as [a|]; [|exact H].
  assert (step : alike (call s a) s) by (apply local_respect; [exact hidden | exact (alike_self s t H)]).
  apply IH.
  - exact (alike_trans _ _ _ step H).
  - intro seen. exact (hidden (visible_alike _ _ step seen)).
Qed.

Lemma alike_slot : forall fuel s t, alike s t -> alike (slot fuel s) (slot fuel t).
Proof.
  induction fuel as [|rest IH]; intros s t H; [exact H|].
  destruct (visible_dec s) as [seen|hidden].
  - simpl. rewrite <- (visible_program s t H seen).
    destruct (next_call s) as [a|]; [|exact H].
    apply IH. exact (step_consistent s t a H seen).
  - assert (hidden_t : ~ visible t)
      by (intro seen; exact (hidden (visible_alike t s (alike_sym s t H) seen))).
    pose proof (hidden_slot (S rest) s t H hidden) as left_done.
    pose proof (hidden_slot (S rest) t (slot (S rest) s) (alike_sym _ _ left_done) hidden_t) as both_done.
    exact (alike_sym _ _ both_done).
Qed.

(* Two runs that start alike, and whose declared releases are equal, look the same for ever. *)
Theorem noninterference : forall slots fuel s t,
  alike s t ->
  all_released slots fuel s = all_released slots fuel t ->
  observed slots fuel s = observed slots fuel t.
Proof.
  induction slots as [|rest IH]; simpl; intros fuel s t H equal; [reflexivity|].
  injection equal as now later.
  pose proof (alike_slot fuel s t H) as after.
  rewrite !slot_is_silent. simpl.
  rewrite (tick_same _ _ after now).
  f_equal.
  apply IH; [exact (tick_consistent _ _ after now) | exact later].
Qed.

End Unwinding.

Print Assumptions noninterference.
